"""A reward that one host asks; with two of them in distributed_test.py."""

from rlpt_jax.programs.one_host import broadcast, on_one_host
from tests.programs.learning_task import by_length


def test_a_single_process_asks_by_itself():
  assert on_one_host(by_length) is by_length
  assert broadcast({'a': (1, 'é')}) == {'a': (1, 'é')}
