"""The order of sampling, publishing and learning."""

import dataclasses
import json
import math

import numpy as np
import pytest

from rlpt_jax.core.layout import Axes
from rlpt_jax.inference import judges
from rlpt_jax.llm import remote
from rlpt_jax.programs.train_rl import train_rl
from rlpt_jax.rewards import scores
from rlpt_jax.rollout import collect, schedules, unjudged
from rlpt_jax.rollout.game import Game
from rlpt_jax.rollout.schedules import Pipelined
from rlpt_jax.runs.run_folder import Saving
from rlpt_jax.training.optimizer import AdamW
from tests.programs import learning_task
from tests.programs.learning_task import ONE_DEVICE


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


@pytest.mark.slow
def test_kept_caches_are_those_of_weights_that_stay(folder, tmp_path):
  """While weights hardly change, it is the same to keep or to recompute."""

  def run(after_update, rate):
    text = lines(
      folder, tmp_path / f'{after_update}_{rate}',
      optimizer=AdamW(learning_rate=rate),
      schedule=Pipelined(max_staleness=2, after_update=after_update),
    )  # fmt: skip
    return [json.loads(line) for line in text.splitlines()]

  kept, recomputed = run('keep', 1e-12), run('recompute', 1e-12)
  assert max(line['staleness/max'] for line in kept) > 0
  for line, expected in zip(kept, recomputed, strict=True):
    for name, value in expected.items():
      # Samples that leave and enter again have other seats, so other versions.
      if not name.startswith(('staleness/', 'compute/')):
        np.testing.assert_allclose(
          line[name], value, rtol=1e-4, atol=1e-4, err_msg=name
        )
  # If they change, caches that are kept are others.
  kept, recomputed = run('keep', 1e-2), run('recompute', 1e-2)
  assert kept[0] == recomputed[0] and kept[-1] != recomputed[-1]


@dataclasses.dataclass(frozen=True)
class Odds:
  """Rewards a completion by which of two scores a local model expects."""

  score: judges.Weighing

  def __call__(self, examples, completions):
    def verdict(example, text):
      ((zero, one),) = self.score([text])
      return scores.Verdict(1 / (1 + math.exp(zero - one)), 'odds')

    return scores.Each(verdict)(examples, completions)


@pytest.mark.slow
def test_a_judge_on_the_same_devices(folder, tmp_path):
  """It is asked between updates, while unfinished samples wait."""
  model = judges.Weighing(
    model='random:tiny_qwen3', chat=False, dtype='float32'
  )
  options = {'reward': Odds(model), 'num_steps': 3, 'max_pass_rate': None}
  first, again = (lines(folder, tmp_path / x, **options) for x in 'ab')
  assert first == again
  judged = [json.loads(line) for line in first.splitlines()]
  assert all(0 < line['reward/mean'] < 1 for line in judged)
  assert max(line['staleness/max'] for line in judged) > 0


@pytest.mark.slow
@pytest.mark.parametrize('failing', [1, 3])
def test_a_judge_that_fails_costs_no_sample(failing, folder, tmp_path):
  """Before the first step, or where the step before is saved already."""
  calls, options = [], {
    'saving': Saving(every=2), 'held_out': None, 'collect': collect.keep,
    'max_pass_rate': None, 'schedule': Pipelined(max_staleness=1),
  }  # fmt: skip

  def reward(examples, completions):
    calls.append(examples)
    if len(calls) == failing:
      raise remote.Unavailable('it is gone')
    return learning_task.by_length(examples, completions)

  expected = lines(folder, tmp_path / 'whole', **options)
  with pytest.raises(remote.Unavailable):
    lines(folder, tmp_path / 'run', reward=reward, **options)
  record = unjudged.read_record(tmp_path / 'run', failing - 1)
  assert (
    sum(
      each['finish_reason'] is not None
      for group in record['stream']['groups']
      for each in group['samples']
      if each
    )
    >= 8
  )
  assert lines(folder, tmp_path / 'run', reward=reward, **options) == expected


@pytest.mark.slow
def test_damaged_samples_damage_their_checkpoint(folder, tmp_path):
  """The run resumes from the one before."""
  options = {'saving': Saving(every=2), 'num_steps': 4}
  expected = lines(folder, tmp_path / 'whole', saving=options['saving'])
  lines(folder, tmp_path / 'run', **options)
  checkpoints = tmp_path / 'run' / 'checkpoints'
  paths = (checkpoints / '4' / 'stream').glob('d/*')
  for path in paths:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
  options['num_steps'] = 5
  assert lines(folder, tmp_path / 'run', **options) == expected
  assert (checkpoints / 'damaged_4').exists()


@pytest.mark.slow
def test_learner_and_sampler_apart_are_one_mesh(folder, tmp_path):
  """Eight devices, 4 + 4, have the numbers of one."""
  found = []
  for name, axes in {
    'one': {'layout': ONE_DEVICE, 'sampler_layout': ONE_DEVICE},
    'apart': {
      'layout': Axes(devices=(0, 4)),
      # Not split by batch: groups that sit on one shard wait for one another.
      'sampler_layout': Axes(data=1, fsdp=1, tensor=4, devices=(4, 8)),
    },
  }.items():
    hardware = learning_task.hardware(num_microbatches=1, slots=8, **axes)
    text = lines(
      folder, tmp_path / name, hardware=hardware,
      schedule=Pipelined(max_staleness=2, overlap=True),
    )  # fmt: skip
    found.append([json.loads(line) for line in text.splitlines()])
  one, apart = found
  assert max(line['staleness/max'] for line in one) == 2
  for expected, line in zip(one, apart, strict=True):
    assert line.keys() == expected.keys()
    for key, value in expected.items():
      # Gaps are rounding errors themselves.
      if not key.startswith('sampler/gap') or value > 1e-3:
        np.testing.assert_allclose(
          line[key], value, rtol=1e-5, atol=1e-5, err_msg=key
        )


def test_what_cannot_be_pipelined_is_refused(folder):
  from tests.rollout import game_test

  config = game_test.config(folder)
  assert isinstance(config.collector, Game)
  with pytest.raises(ValueError, match=r'schedule=.*synchronous with Game'):
    dataclasses.replace(config, schedule=Pipelined())
  for wrong in ({'max_staleness': -1}, {'after_update': 'forget'}):
    with pytest.raises(ValueError, match=f'Pipelined.{next(iter(wrong))}='):
      Pipelined(**wrong)
