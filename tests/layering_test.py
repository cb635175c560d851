"""The architecture, as tests: who imports whom, one door per heavy library, a
test for every module. Each rule is also shown a planted violation.
"""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Parts know `core` and little else; see the tree in README.
PARTS = {
  'algorithms': {'core'},
  'analysis': set(),
  'core': set(),
  'corpus': {'core', 'data', 'llm'},
  'data': {'core'},
  'llm': {'core'},
  'models': {'core'},
  'rewards': {'core', 'llm'},
  'sampling': {'core', 'models'},
  'serving': {'core', 'sampling'},
  'training': {'core'},
}
# Training, evaluation and the rest neither serve nor make corpora.
WIRED = PARTS.keys() - {'corpus', 'serving'}
SHARED = WIRED | {'inference'}
# A folder may import itself, and those named here.
MAY_IMPORT = {
  **PARTS,
  'inference': WIRED,
  'runs': SHARED,
  'rollout': SHARED,
  'completions': SHARED,
  'evaluation': SHARED | {'completions'},
  'planning': SHARED | {'rollout'},
  'quickstart': SHARED | {'corpus'},  # Only its prompts for questions.
  'programs': SHARED
  | {
    'corpus', 'serving', 'runs', 'rollout', 'completions', 'evaluation',
    'planning', 'quickstart',
  },
  'gin_files': {'core'},
  'gin_config': {'core', 'gin_files'},
  'cli': {'core', 'gin_config', 'programs'},
}  # fmt: skip
# A stage of the quickstart is a command, and runs as one.
COMMANDS = 'rlpt_jax/quickstart/stages.py imports rlpt_jax.cli'

# Library -> where it may be imported, '' for nowhere.
DOORS = {
  'gin': 'rlpt_jax/gin_',
  'tyro': 'rlpt_jax/cli.py',
  'tensorflow': 'rlpt_jax/data/',
  'tensorflow_datasets': 'rlpt_jax/data/',
  'seqio': 'rlpt_jax/data/',
  'nltk': 'rlpt_jax/data/',
  'apache_beam': ('rlpt_jax/data/', 'rlpt_jax/corpus/'),
  'pyarrow': 'rlpt_jax/data/',
  'datasets': 'rlpt_jax/data/',
  'zstandard': 'rlpt_jax/data/',
  'orbax': 'rlpt_jax/training/checkpoints.py',
  'tensorstore': 'rlpt_jax/training/written.py',
  'datatrove': 'rlpt_jax/corpus/rules.py',
  'phonenumbers': 'rlpt_jax/corpus/phones.py',
  'py3langid': 'rlpt_jax/corpus/language.py',
  'rensa': 'rlpt_jax/corpus/signatures.py',
  'spacy': 'rlpt_jax/corpus/personal.py',
  'optax': 'rlpt_jax/training/',
  'safetensors': 'rlpt_jax/models/huggingface.py',
  'transformers': 'rlpt_jax/core/tokenizer.py',
  'sentencepiece': 'rlpt_jax/core/tokenizer.py',
  'tokenizers': (
    'rlpt_jax/core/tokenizer.py',
    'rlpt_jax/quickstart/vocabulary.py',
  ),
  'math_verify': 'rlpt_jax/rewards/math_worker.py',
  'sympy': 'rlpt_jax/rewards/math_worker.py',
  'matplotlib': 'rlpt_jax/analysis/',
  'scipy': 'rlpt_jax/analysis/',
  'aiohttp': ('rlpt_jax/serving/http.py', 'rlpt_jax/llm/connection.py'),
  'openai': '',
  'torch': '',
  'flax': 'rlpt_jax/',  # flax.struct, which is light.
}
# Behind its door, inside the function that needs it.
LAZY = {
  'transformers', 'sentencepiece', 'tokenizers', 'safetensors', 'gin', 'tyro',
  'tensorflow', 'tensorflow_datasets', 'seqio', 'nltk', 'apache_beam',
  'matplotlib', 'pyarrow', 'zstandard', 'math_verify', 'sympy', 'datasets',
  'datatrove', 'phonenumbers', 'py3langid', 'rensa', 'spacy', 'scipy',
}  # fmt: skip
# What is imported by whoever wants the library itself.
EAGER = {'rlpt_jax/data/seqio_tasks.py'}
VAGUE = {'utils', 'util', 'helpers', 'helper', 'common', 'misc', 'base'}


def sources() -> dict[str, str]:
  return {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted((ROOT / 'rlpt_jax').rglob('*.py'))
  }


@functools.cache
def parsed(source: str) -> ast.Module:
  return ast.parse(source)


@functools.cache
def imports(source: str) -> list[tuple[str, bool]]:
  """(module, whether it happens on import) of every import."""
  tree, found = parsed(source), []
  inside = {
    node
    for function in ast.walk(tree)
    if isinstance(function, ast.FunctionDef)
    for node in ast.walk(function)
  }
  for node in ast.walk(tree):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative imports hide who imports whom'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    for name in names:
      found.append((name, node not in inside))
  return found


def wrong_directions(files: dict[str, str]) -> list[str]:
  wrong = []
  for path, source in files.items():
    part = path.removeprefix('rlpt_jax/').split('/')[0].removesuffix('.py')
    if part == '__init__':
      continue
    for name, _ in imports(source):
      target = name.split('.')[1] if name.startswith('rlpt_jax.') else part
      if target != part and target not in MAY_IMPORT[part]:
        wrong.append(f'{path} imports {name}')
  return [each for each in wrong if each != COMMANDS]


def commands_of_commands(files: dict[str, str]) -> list[str]:
  """What commands share is no command, and stands in another folder."""
  return [
    f'{path} imports {name}'
    for path, source in files.items()
    if path.startswith('rlpt_jax/programs/')
    for name, _ in imports(source)
    if name.startswith('rlpt_jax.programs.')
  ]


def wrong_doors(files: dict[str, str]) -> list[str]:
  wrong = []
  for path, source in files.items():
    for name, top in imports(source):
      library = name.split('.')[0]
      door = DOORS.get(library)
      if door is None:
        continue
      if not door or not path.startswith(door):
        wrong.append(f'{path} imports {name}, whose door is {door or "tests"}')
      elif top and library in LAZY and path not in EAGER:
        wrong.append(f'{path} imports {name} at the top')
  return wrong


def without_test(files: dict[str, str], tests: set[str]) -> list[str]:
  modules = {
    path.removeprefix('rlpt_jax/').removesuffix('.py')
    for path in files
    if not path.endswith('__init__.py')
  }
  return [m for m in sorted(modules) if f'tests/{m}_test.py' not in tests]


def without_source(files: dict[str, str], tests: set[str]) -> list[str]:
  return [
    test
    for test in sorted(tests)
    if test.count('/') > 1
    and test.replace('tests/', 'rlpt_jax/').replace('_test.py', '.py')
    not in files
  ]


def vague_names(files: dict[str, str]) -> list[str]:
  return [path for path in files if pathlib.Path(path).stem in VAGUE]


def long_files(files: dict[str, str]) -> list[str]:
  return [
    f'{path}: {len(source.splitlines())} lines'
    for path, source in files.items()
    if len(source.splitlines()) > 500
  ]


def long_functions(files: dict[str, str]) -> list[str]:
  long = []
  for path, source in files.items():
    program = pathlib.Path(path).stem if '/programs/' in path else None
    for node in ast.walk(parsed(source)):
      # A program is one function, read from top to bottom.
      if isinstance(node, ast.FunctionDef) and node.name != program:
        lines = node.end_lineno - node.lineno + 1
        if lines > 65:
          long.append(f'{path} {node.name}: {lines} lines')
  return long


def large_programs(files: dict[str, str]) -> list[str]:
  """A command is one function, but no endless one."""
  large = []
  for path, source in files.items():
    if not path.startswith('rlpt_jax/programs/'):
      continue
    for node in parsed(source).body:
      is_program = isinstance(node, ast.FunctionDef)
      if not is_program or node.name != pathlib.Path(path).stem:
        continue
      lines = node.end_lineno - node.lineno + 1
      arguments = len(node.args.args) + len(node.args.kwonlyargs)
      if lines >= 120 or arguments > 10:
        large.append(f'{path}: {lines} lines, {arguments} arguments')
  return large


def existing_tests() -> set[str]:
  found = (ROOT / 'tests').rglob('*_test.py')
  return {str(path.relative_to(ROOT)) for path in found}


RULES = {
  'direction': wrong_directions,
  'commands': commands_of_commands,
  'door': wrong_doors,
  'a test for every module': lambda files: without_test(
    files, existing_tests()
  ),
  'a module for every test': lambda files: without_source(
    files, existing_tests()
  ),
  'names': vague_names,
  'length of files': long_files,
  'length of functions': long_functions,
  'size of programs': large_programs,
}
PLANTED = {
  'direction': ('rlpt_jax/training/x.py', 'from rlpt_jax.models import zoo'),
  'commands': (
    'rlpt_jax/programs/x.py', 'from rlpt_jax.programs.serve import url'),
  'door': ('rlpt_jax/sampling/x.py', 'def f():\n  import torch'),
  'a test for every module': ('rlpt_jax/core/untested.py', ''),
  'a module for every test': ('rlpt_jax/core/layout.py', None),
  'names': ('rlpt_jax/core/utils.py', ''),
  'length of files': ('rlpt_jax/core/x.py', 'x = 1\n' * 501),
  'length of functions': (
    'rlpt_jax/core/x.py', 'def f():\n' + '  x = 1\n' * 70),
  'size of programs': (
    'rlpt_jax/programs/x.py', 'def x(a, b, c, d, e, f, *, g, h, i, j, k): ...'),
}  # fmt: skip


@pytest.mark.parametrize('rule', RULES)
def test_rule(rule):
  assert RULES[rule](sources()) == []


@pytest.mark.parametrize('rule', RULES)
def test_rule_notices_a_planted_violation(rule):
  path, source = PLANTED[rule]
  files = {**sources(), path: source}
  if source is None:
    del files[path]
  assert len(RULES[rule](files)) == 1


@pytest.mark.parametrize(
  ('path', 'module'),
  [
    ('rollout/x.py', 'runs.run_folder'),
    ('rollout/x.py', 'serving.http'),
    ('runs/x.py', 'rollout.collect'),
    ('llm/x.py', 'rewards.scores'),
    ('inference/x.py', 'completions.options'),
    ('completions/x.py', 'evaluation.results'),
    ('evaluation/x.py', 'programs.generate'),
    ('quickstart/x.py', 'programs.train_rl'),
    ('sampling/x.py', 'serving.protocol'),
  ],
)
def test_a_wrong_direction_is_noticed(path, module):
  planted = {f'rlpt_jax/{path}': f'import rlpt_jax.{module}'}
  assert len(wrong_directions(planted)) == 1


def test_a_lazy_library_at_the_top_is_noticed():
  planted = {'rlpt_jax/core/tokenizer.py': 'import transformers'}
  assert wrong_doors(planted) == [
    'rlpt_jax/core/tokenizer.py imports transformers at the top'
  ]
