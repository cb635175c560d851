"""Short names lead to modules, and stand for all that our gin files set."""

import importlib
import pathlib

import pytest

from rlpt_jax.core import names, settings
from rlpt_jax.training.optimizer import AdamW

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('name', names.MODULES)
def test_a_name_leads_to_a_module_and_back(name):
  module = importlib.import_module(names.MODULES[name])
  assert names.short(module.__name__) == name


def test_our_gin_files_import_nothing():
  for path in (
    *ROOT.glob('experiments/**/*.gin'),
    *ROOT.glob('rlpt_jax/**/*.gin'),
  ):
    assert 'import' not in path.read_text(), path


def test_a_module_that_moves_keeps_the_names_of_its_settings(monkeypatch):
  before = settings.describe(AdamW(learning_rate=1.0))
  assert before['is'] == 'optimizer.AdamW'
  monkeypatch.setattr(AdamW, '__module__', 'rlpt_jax.elsewhere.adamw')
  assert settings.describe(AdamW(learning_rate=1.0)) != before
  monkeypatch.setitem(names._NAMES, 'rlpt_jax.elsewhere.adamw', 'optimizer')
  assert settings.describe(AdamW(learning_rate=1.0)) == before
