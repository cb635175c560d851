"""The list of a run's files names each of them."""

from rlpt_jax.core import run_files


def test_the_list_is_complete_and_names_differ():
  names = [value for name, value in vars(run_files).items() if name.isupper()]
  assert len(names) == len(set(names))
  for name in names:
    assert name in run_files.__doc__
