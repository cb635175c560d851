"""Documentation is run: bash and python blocks of every page are tests.

The blocks of a page run one after the other in one folder, as a reader would.
Blocks marked `console` are for the reader's machine: they install something,
or run these tests.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import compiled

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(p for p in ROOT.glob('*.md'))
PAGES += sorted((ROOT / 'docs').rglob('*.md'))
BLOCKS = {
  page: re.findall(
    r'^```(bash|python)\n(.*?)^```', page.read_text(), re.S | re.M
  )
  for page in PAGES
}
LINKING = [
  *PAGES,
  *(ROOT / f'{x}/README.md' for x in ('benchmarks', 'experiments', 'launch')),
]


def name(page):
  return str(page.relative_to(ROOT))


# Its blocks are run in an empty environment: install_test.py.
ELSEWHERE = {ROOT / 'README.md'}


@pytest.mark.slow
@pytest.mark.parametrize(
  'page', [p for p in PAGES if BLOCKS[p] and p not in ELSEWHERE], ids=name
)
def test_blocks_run(page, tmp_path):
  # The rlpt of this environment, and of this checkout.
  binaries = pathlib.Path(sys.executable).parent
  env = compiled.on_one_device() | {'PYTHONPATH': str(ROOT)}
  run_blocks(page, tmp_path, binaries, env)


def run_blocks(page, folder, binaries, env) -> list[str]:
  """What each block of a page printed."""
  path = f'{binaries}{os.pathsep}{os.environ["PATH"]}'
  printed = []
  for language, code in BLOCKS[page]:
    command = {
      'bash': ['bash', '-euo', 'pipefail', '-c', code],
      'python': [binaries / 'python', '-c', code],
    }[language]
    done = subprocess.run(
      command, cwd=folder, capture_output=True, text=True,
      env=env | {'PATH': path},
    )  # fmt: skip
    assert done.returncode == 0, code + done.stdout + done.stderr
    printed.append(done.stdout)
  return printed


def test_there_are_blocks():
  assert sum(map(len, BLOCKS.values())) >= 10
  assert len(BLOCKS[ROOT / 'README.md']) >= 2


@pytest.mark.parametrize('page', LINKING, ids=name)
def test_links_lead_somewhere(page):
  links = re.findall(r'\]\((?!http)([^)#]*)#?([^)]*)\)', page.read_text())
  for target, section in links:
    path = page.parent / target if target else page
    assert path.exists(), target
    assert not section or section in sections(path), f'{target}#{section}'


def sections(page):
  """What the headings of a page are called in links."""
  headings = re.findall(r'^#+ (.+)$', page.read_text(), re.M)
  kept = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
  return [heading.replace(' ', '-') for heading in kept]


def test_every_page_is_linked_from_readme():
  text = (ROOT / 'README.md').read_text()
  for page in (ROOT / 'docs').rglob('*.md'):
    assert f']({name(page)}' in text, page


def test_every_program_is_in_the_table():
  from rlpt_jax import cli

  text = (ROOT / 'README.md').read_text()
  for program in cli.PROGRAMS:
    assert f'| `rlpt {program}' in text, program
