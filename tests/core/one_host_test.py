"""A reward that one host asks; with two of them in distributed_test.py."""

import jax
import pytest

from rlpt_jax.core import one_host
from rlpt_jax.core.one_host import broadcast, on_one_host
from tests.programs.learning_task import by_length


def test_a_single_process_asks_by_itself():
  assert on_one_host(by_length) is by_length
  assert broadcast({'a': (1, 'é')}) == {'a': (1, 'é')}


@pytest.mark.parametrize('called_by_all', [False, True])
@pytest.mark.parametrize('said', ['first', ValueError('of the first')])
def test_the_second_hears_the_first(called_by_all, said, monkeypatch):
  """Whatever it has found itself, and whether or not it was called."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  given, asked = [], []

  def heard(value):
    given.append(value)
    return said

  def reward(example):
    asked.append(example)
    raise TimeoutError('of the second')

  monkeypatch.setattr(one_host, 'broadcast', heard)
  called = on_one_host(reward, called_by_all=called_by_all)
  if said == 'first':
    assert called(5) == 'first'
  else:
    with pytest.raises(ValueError, match='of the first'):
      called(5)
  assert asked == ([5] if called_by_all else []) and len(given) == 1
