"""The order of sampling, publishing and learning."""

import dataclasses

import pytest

from rlpt_jax.programs.train_rl import train_rl
from rlpt_jax.rollout import schedules
from rlpt_jax.rollout.game import Game
from rlpt_jax.rollout.schedules import Pipelined
from tests.programs import learning_task


def events_of(schedule, batches=2):
  """The order of events; `catch_up` publishes, as it does in a stream."""
  events = []

  def collect():
    events.append('collect')
    return None if events.count('collect') > batches else len(events)

  class Source:
    def catch_up(self, publish):
      events.append('sample')
      publish()

  for _ in schedule(collect, lambda: events.append('publish'), Source()):
    events.append('update')
  return events


def test_synchronous_samples_with_the_weights_of_the_last_update():
  assert events_of(schedules.synchronous) == (
    ['publish', 'collect', 'update'] * 2 + ['publish', 'collect']
  )
  assert events_of(Pipelined()) == events_of(schedules.synchronous)


def test_a_schedule_that_overlaps_publishes_after_sampling():
  assert events_of(Pipelined(overlap=True)) == (
    ['sample', 'publish', 'collect', 'update'] * 2
    + ['sample', 'publish', 'collect']
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return learning_task.write(tmp_path_factory.mktemp('task'))


def lines(folder, workdir, **options):
  """The metrics of a run, which has all that a run may have."""
  config = learning_task.short(
    folder, 'random:tiny_qwen3', reward=learning_task.by_length, num_steps=5,
  )  # fmt: skip
  config = learning_task.pipelined(config)
  train_rl(dataclasses.replace(config, **options), workdir=workdir)
  return (workdir / 'metrics.jsonl').read_text()


@pytest.mark.slow
def test_without_staleness_it_is_synchronous_to_the_last_bit(folder, tmp_path):
  expected = lines(
    folder, tmp_path / 'synchronous', schedule=schedules.synchronous
  )
  for overlap in (False, True):
    schedule = Pipelined(max_staleness=0, overlap=overlap)
    workdir = tmp_path / str(overlap)
    assert lines(folder, workdir, schedule=schedule) == expected
  # It is not so by accident: with staleness, it is another run.
  assert lines(folder, tmp_path / 'ahead') != expected


def test_what_cannot_be_pipelined_is_refused(folder):
  from tests.rollout import game_test

  config = game_test.config(folder)
  assert isinstance(config.collector, Game)
  with pytest.raises(ValueError, match=r'schedule=.*synchronous with Game'):
    dataclasses.replace(config, schedule=Pipelined())
  for wrong in ({'max_staleness': -1}, {'after_update': 'forget'}):
    with pytest.raises(ValueError, match=f'Pipelined.{next(iter(wrong))}='):
      Pipelined(**wrong)
