"""Every gin file of experiments/ is one that its program reads."""

import pathlib
import re

import pytest

from rlpt_jax import cli
from rlpt_jax.data.config import Data

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / 'experiments').rglob('*.gin'))


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.name)
def test_gin_files(file, monkeypatch):
  monkeypatch.chdir(ROOT)
  text = file.read_text()
  assert len(text.splitlines()) <= 40
  program, path = re.search(r'# Command: +rlpt (\w+) (\S+)', text).groups()
  assert ROOT / path == file
  assert program in cli.PROGRAMS
  assert isinstance(cli.read_config(Data, pathlib.Path(path)), Data)
