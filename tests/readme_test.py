"""Documentation is run: bash and python blocks of every page are tests.

Blocks marked `console` are for the reader's machine: they install something,
or run these tests.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(p for p in ROOT.glob('*.md'))
PAGES += sorted((ROOT / 'docs').rglob('*.md'))
BLOCKS = [
  pytest.param(language, code, id=f'{page.name}-{language}-{i}')
  for page in PAGES
  for i, (language, code) in enumerate(
    re.findall(r'^```(bash|python)\n(.*?)^```', page.read_text(), re.S | re.M)
  )
]


@pytest.mark.slow
@pytest.mark.parametrize(('language', 'code'), BLOCKS)
def test_block_runs(language, code, tmp_path):
  command = {
    'bash': ['bash', '-euo', 'pipefail', '-c', code],
    'python': [sys.executable, '-c', code],
  }[language]
  # The rlpt of this environment, and of this checkout.
  binaries = str(pathlib.Path(sys.executable).parent)
  path = f'{binaries}{os.pathsep}{os.environ["PATH"]}'
  done = subprocess.run(
    command, cwd=tmp_path, capture_output=True, text=True,
    env=os.environ | {'PATH': path, 'PYTHONPATH': str(ROOT)},
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_blocks():
  assert len(BLOCKS) >= 2


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\((?!http)([^)#]+)', page.read_text()):
    assert (page.parent / target).exists(), target


def test_every_program_is_in_the_table():
  from rlpt_jax import cli

  text = (ROOT / 'README.md').read_text()
  for name in cli.PROGRAMS:
    assert f'| `rlpt {name}' in text, name
