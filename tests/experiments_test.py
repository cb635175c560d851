"""Every gin file of experiments/ is one that its program reads."""

import importlib
import pathlib
import re
import typing

import pytest

from rlpt_jax import cli

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
  module = importlib.import_module(f'rlpt_jax.programs.{program}')
  kind = typing.get_type_hints(getattr(module, program))['config']
  assert isinstance(cli.read_config(kind, pathlib.Path(path)), kind)
