r"""Reads public benchmarks and turns their rows into problems.

An entry of `ROWS` says where a benchmark is published, which of its fields hold
the question and the reference answer, and which scorer to use. The number of
samples follows the paper (RLPT 2509.19249, section 4.2: 64 for mathematics).
The paper does not state its prompts; ours, below, are zero-shot and ask for
reasoning first and the result in \boxed{}.
"""

import dataclasses
import importlib.util
import pathlib
import string
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from rlpt_jax.data import prompts, tables
from rlpt_jax.data.order import permute
from rlpt_jax.data.tables import Row

Scorer = Literal['math', 'number', 'choice', 'brackets']

CHOICE = """\
{question}

{options}

Please reason step by step, and put the letter of the right option within \
\\boxed{{}}."""

# The questions of KOR-Bench already ask for the answer in [[ ]].
RULE = """\
### Rule

{rule}

### Question

{question}

Please apply the rule above, whatever else you know, and reason step by step."""


class Problem(NamedTuple):
  """A question and its reference answers."""

  id: str
  prompt: str
  references: tuple[str, ...]  # In the form that the scorer expects.
  group: str = ''  # E.g. the subject; means are also reported per group.
  texts: tuple[str, ...] = ()  # The benchmark's own words, without our prompt.


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A published benchmark, and how its rows become problems.

  make: turns a row into a problem; returns None for one that cannot be asked,
    for example because it has a picture.
  gather: joins rows that form one problem, before `make` gets them.
  """

  name: str
  repo: str  # On the Hugging Face hub.
  split: str
  fields: str  # The fields that a row must have, for error messages.
  scorer: Scorer
  make: Callable[['Fields', str], Problem | None]
  config: str = ''
  samples: int = 1
  gather: Callable[[list[Row]], list[Row]] = lambda rows: rows

  @property
  def named(self) -> str:
    parts = ['hf', self.repo, self.config, self.split]
    return ':'.join(filter(None, parts))


class Fields:
  """Looks up fields of a row by any of the names they are published under."""

  def __init__(self, row: Row, benchmark: str, expected: str):
    self._row, self._benchmark, self._expected = row, benchmark, expected

  def get(self, *names: str, default: Any = None) -> Any:
    for name in names:
      if self._row.fields.get(name) is not None:
        return self._row.fields[name]
    return default

  def __call__(self, *names: str) -> Any:
    value = self.get(*names)
    if value is None or value == '':
      has = ', '.join(map(str, self._row.fields)) or 'none'
      self.fail(f'no {" or ".join(names)} among its fields ({has})')
    return value

  def text(self, *names: str) -> str:
    value = self(*names)
    if isinstance(value, (list, dict)):
      self.fail(f'{names[0]} is a {type(value).__name__}, not text')
    if isinstance(value, float) and value.is_integer():
      value = int(value)  # A numeric column holds 25.0 for the answer 25.
    return str(value).strip()

  def texts(self, *names: str) -> list[str]:
    options = self(*names)
    if not isinstance(options, (list, tuple)) or not 1 < len(options) <= 26:
      self.fail(f'{names[0]} is {str(options)[:60]!r}, not a list of options')
    return [str(option).strip() for option in options]

  def fail(self, what: str):
    raise ValueError(
      f'{self._row.where}: {what}; {self._benchmark} expects {self._expected}.'
    )


def plain_answer(fields: Fields, id: str) -> Problem:
  """Makes a problem with a plain answer, for most mathematics benchmarks."""
  question = fields.text('problem', 'question', 'Problem', 'Question')
  answer = fields.text('answer', 'Answer', 'final_answer')
  group = str(fields.get('subject', 'level', default=''))
  return _open(id, question, answer, group)


def gsm8k(fields: Fields, id: str) -> Problem:
  """Makes a problem of GSM8K, where '####' in the solution marks the answer."""
  worked = fields.text('answer')
  _, mark, gold = worked.rpartition('####')
  gold = gold.strip().replace(',', '').lstrip('$')
  if not mark or not gold:
    fields.fail(f'the answer ends in {worked[-40:]!r}, not in #### RESULT')
  return _open(id, fields.text('question'), gold)


def olympiad(fields: Fields, id: str) -> Problem | None:
  """Makes a problem of OlympiadBench; None if it has a picture or is a proof.

  Several answers are joined by commas.
  """
  has_picture = any(fields.get(f'image_{i}') for i in range(1, 10))
  answers = fields.get('final_answer')
  if has_picture or not answers:  # No answers: a proof, which we cannot judge.
    return None
  if isinstance(answers, str):
    answers = [answers]
  gold = ', '.join(str(answer).strip().strip('$').strip() for answer in answers)
  context = str(fields.get('context', default='') or '').strip()
  question = '\n\n'.join(filter(None, [context, fields.text('question')]))
  group = str(fields.get('subfield', 'subject', default=''))
  note = ''
  if unit := fields.get('unit'):
    note = f'\n\nGive the answer in {unit}, without the unit.'
  return _open(id, question, gold, group, note)


def mmlu(fields: Fields, id: str) -> Problem:
  options = fields.texts('choices')
  gold = _letter(fields, fields('answer'), options)
  group = str(fields.get('subject', default=''))
  return _choice(id, fields.text('question'), options, gold, group)


def mmlu_pro(fields: Fields, id: str) -> Problem:
  options = fields.texts('options')
  gold = fields.get('answer_index')
  gold = _letter(fields, fields('answer') if gold is None else gold, options)
  group = str(fields.get('category', default=''))
  return _choice(id, fields.text('question'), options, gold, group)


def super_gpqa(fields: Fields, id: str) -> Problem:
  options = fields.texts('options')
  gold = _letter(fields, fields('answer_letter'), options)
  group = str(fields.get('discipline', default=''))
  return _choice(id, fields.text('question'), options, gold, group)


def gpqa(fields: Fields, id: str) -> Problem:
  """Makes a problem of GPQA; a hash of the question shuffles the options."""
  question = fields.text('Question')
  right = fields.text('Correct Answer')
  wrong = [fields.text(f'Incorrect Answer {i}') for i in (1, 2, 3)]
  listed = [right, *wrong]
  places = [permute(i, 4, question) for i in range(4)]
  options = [listed[places.index(place)] for place in range(4)]
  group = str(fields.get('High-level domain', default=''))
  return _choice(id, question, options, 'ABCD'[places[0]], group)


def kor(fields: Fields, id: str) -> Problem:
  group = str(fields.get('category', default=''))
  rule, question = fields.text('rule_content'), fields.text('question')
  prompt = RULE.format(rule=rule, question=question)
  answer = fields.text('answer')
  return Problem(id, prompt, (answer,), group, (rule, question))


def kor_rows(rows: list[Row]) -> list[Row]:
  """Joins the rows of CATEGORY/sample and CATEGORY/rule by rule_id.

  Keeps rows that already contain their rule.
  """
  rules, samples = {}, []
  for row in rows:
    file = pathlib.PurePath(row.file)
    if 'title' in row.fields and 'rule_content' in row.fields:
      rules[file.parent.name, str(row.fields.get('idx'))] = row.fields
    elif 'rule_content' in row.fields or file.name.startswith('sample'):
      samples.append(row)
  joined = []
  for row in samples:
    category = pathlib.PurePath(row.file).parent.name
    fields = {**row.fields}
    if 'rule_content' not in fields:
      key = category, str(fields.get('rule_id'))
      if key not in rules:
        raise ValueError(
          f'{row.where}: no rule {key[1]} in rule.jsonl in the same folder; '
          'kor_bench expects CATEGORY/sample.jsonl and CATEGORY/rule.jsonl.'
        )
      fields['rule_content'] = rules[key]['rule_content']
      # Report these by folder. The row's own category may have another name:
      # it is 'Encryption' in the folder cipher/.
      fields['category'] = category
    joined.append(row._replace(fields=fields))
  return joined


def _open(
  id: str, question: str, gold: str, group: str = '', note: str = ''
) -> Problem:
  """Makes a problem whose answer goes into a box.

  note: follows the question, and is not the benchmark's own.
  """
  prompt = prompts.RLVR.replace('{question}', question + note)
  return Problem(id, prompt, (gold,), group, (question,))


def _choice(id, question, options: Sequence[str], gold: str, group: str):
  lines = [
    f'{letter}. {option}'
    for letter, option in zip(string.ascii_uppercase, options, strict=False)
  ]
  prompt = CHOICE.format(question=question, options='\n'.join(lines))
  return Problem(id, prompt, (gold, *options), group, (question,))


def _letter(fields: Fields, answer: Any, options: Sequence[str]) -> str:
  """Returns the letter of an answer given as a letter or an index from 0."""
  letters = string.ascii_uppercase[: len(options)]
  text = str(answer).strip()
  if text.isdigit() and int(text) < len(options):
    return letters[int(text)]
  if len(text) == 1 and text.upper() in letters:
    return text.upper()
  fields.fail(f'the answer is {answer!r}, but there are {len(options)} options')


_MATHS = {'scorer': 'math', 'make': plain_answer, 'samples': 64}

ROWS = (
  Benchmark(
    'mmlu', 'cais/mmlu', 'test', 'question, choices, answer (0 to 3), subject',
    'choice', mmlu, config='all',
  ),
  Benchmark(
    'mmlu_pro', 'TIGER-Lab/MMLU-Pro', 'test',
    'question, options, answer (a letter), answer_index, category',
    'choice', mmlu_pro,
  ),
  Benchmark(
    'gpqa_diamond', 'Idavidrein/gpqa', 'train',
    'Question, Correct Answer, Incorrect Answer 1 to 3',
    'choice', gpqa, config='gpqa_diamond',
  ),
  Benchmark(
    'supergpqa', 'm-a-p/SuperGPQA', 'train',
    'question, options, answer_letter, discipline', 'choice', super_gpqa,
  ),
  Benchmark(
    'kor_bench', 'm-a-p/KOR-Bench', '',
    'rule_content, question, answer ([[...]]), category, or the folders of '
    'its repository: CATEGORY/sample.jsonl, CATEGORY/rule.jsonl',
    'brackets', kor, gather=kor_rows,
  ),
  Benchmark(
    'olympiad_bench', 'Hothan/OlympiadBench', 'train',
    'question, final_answer (a list), unit, context, subfield',
    'math', olympiad, config='OE_TO_maths_en_COMP',
  ),
  Benchmark(
    'gsm8k', 'openai/gsm8k', 'test', 'question, answer (ends in #### RESULT)',
    'number', gsm8k, config='main', samples=64,
  ),
  Benchmark(
    'math500', 'HuggingFaceH4/MATH-500', 'test', 'problem, answer, subject',
    **_MATHS,
  ),
  Benchmark('amc23', 'math-ai/amc23', 'test', 'question, answer', **_MATHS),
  Benchmark(
    'minerva', 'math-ai/minervamath', 'test', 'question, answer', **_MATHS
  ),
  Benchmark(
    'aime24', 'HuggingFaceH4/aime_2024', 'train', 'problem, answer', **_MATHS
  ),
  Benchmark('aime25', 'math-ai/aime25', 'test', 'problem, answer', **_MATHS),
)  # fmt: skip
NAMES = tuple(row.name for row in ROWS)


@dataclasses.dataclass(frozen=True)
class Loaded:
  """The problems of a benchmark, and where they were read from."""

  benchmark: Benchmark
  problems: list[Problem]
  place: str
  left_out: int  # The number of rows for which `make` returned None.


def load(name: str, folder: pathlib.Path | None, place: str = '') -> Loaded:
  """Reads a benchmark's problems from `place`.

  If no place is given, reads them from `folder` or, if they are not there and
  `datasets` is installed, from the Hugging Face hub.
  """
  benchmark = get(name)
  rows, place = _rows(benchmark, folder, place)
  problems = [
    benchmark.make(Fields(row, name, benchmark.fields), f'{name}/{i}')
    for i, row in enumerate(benchmark.gather(rows))
  ]
  kept = [problem for problem in problems if problem is not None]
  if not kept:
    raise ValueError(
      f'{name}: no problems in {place}; expected rows with {benchmark.fields}.'
    )
  return Loaded(benchmark, kept, place, len(problems) - len(kept))


def found(folder: pathlib.Path) -> list[str]:
  """Returns the names of the benchmarks that have files in a folder."""
  return [
    row.name for row in ROWS if any(map(tables.find, _paths(row, folder)))
  ]


def get(name: str) -> Benchmark:
  for row in ROWS:
    if row.name == name:
      return row
  raise ValueError(
    f'{name!r} is not a benchmark: expected one of {", ".join(NAMES)}, or a '
    '.gin file of held-out text.'
  )


def _paths(benchmark: Benchmark, folder: pathlib.Path) -> list[pathlib.Path]:
  suffixes = '', *tables.SUFFIXES
  return [folder / f'{benchmark.name}{suffix}' for suffix in suffixes]


def _rows(
  benchmark: Benchmark, folder: pathlib.Path | None, place: str
) -> tuple[list[Row], str]:
  if tables.is_named(place):
    return tables.read_named(place), place
  tried = [pathlib.Path(place)] if place else []
  if folder and not place:
    tried = _paths(benchmark, folder)
  for path in tried:
    files = tables.find(path, benchmark.config, benchmark.split)
    if files:
      return tables.read(files), str(path)
  if not place and importlib.util.find_spec('datasets'):
    return tables.read_named(benchmark.named), benchmark.named
  where, which = folder or 'DATA', ''
  if benchmark.split:
    which = f'the {benchmark.split} split of '
    if benchmark.config:
      which += f'{benchmark.config!r} in '
  raise ValueError(
    f'{benchmark.name}: no data{f" at {place}" if place else ""}. Put {which}'
    f'https://huggingface.co/datasets/{benchmark.repo} (fields: '
    f'{benchmark.fields}) at {where}/{benchmark.name}.jsonl, or .json, '
    f'.parquet, .csv, or a clone of it at {where}/{benchmark.name}/, and pass '
    f'--data={where}; or say where it is: {benchmark.name}=PATH, '
    f'{benchmark.name}=tfds:NAME; or pip install datasets.'
  )
