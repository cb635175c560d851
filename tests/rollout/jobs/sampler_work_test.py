"""What a sampler keeps and drops when the learner or its weights change."""

from types import SimpleNamespace

import pytest

from rlpt_jax.rollout import group_state
from rlpt_jax.rollout.jobs.sampler_work import Work
from rlpt_jax.rollout.jobs.starts import NO_VERSION, Start
from rlpt_jax.rollout.sampling import Sampling
from tests.rollout import stream_test
from tests.rollout.group_state_test import group

SAMPLES = 2


class FakeSampler(stream_test.FakeSampler):
  """Notes when samples enter."""

  def __init__(self, version):
    super().__init__(4, version)
    self.counts, self.entered, self.weights = {'row_steps': 0}, [], []

  @property
  def is_idle(self):
    return not self._running and not self._waiting

  def submit(self, request, deliver, *, begun):
    self.entered.append((request.id, {i: len(x) for i, x in begun.items()}))
    return super().submit(request, deliver, begun=begun)

  def publish(self, params, *, version):
    self.version = version
    self.weights.append(params)

  def close(self):
    self.weights.append('closed')


def task(number):
  example, name, _ = group(number, None)
  return {'name': name, 'example': group_state.to_json(example)}


@pytest.fixture
def make():
  def made(recompute=True):
    opened = []

    def open_sampler(params, version):
      opened.append(FakeSampler(version))
      return opened[-1]

    work = Work(
      open_sampler, stream_test.Data64.tokenizer,
      Sampling(SAMPLES, max_new_tokens=24), seed=0, recompute=recompute,
    )  # fmt: skip
    return work, opened

  return made


def start(*versions, secret='secret'):
  return Start('host', 1, f'{secret} {len(versions)}', versions)


def test_without_weights_it_asks_for_nothing(make):
  work, opened = make()
  work.follow(start(0))
  assert (work.version, work.wanted, work.names) == (NO_VERSION, 0, [])
  assert not work.step() and work.take_slots_in_use() is None
  work.publish('weights', 0)
  assert (work.version, work.wanted) == (0, 2)  # 4 slots.
  assert not work.step()
  work.close()
  assert opened[0].weights == ['closed']


def test_it_fills_its_slots_and_no_more(make):
  work, _ = make()
  work.publish('weights', 0)
  work.add([task(0)])
  assert work.wanted == 1
  work.add([task(1)])
  assert work.wanted == 0
  work.drop(['name 0'])
  assert work.wanted == 1 and work.names == ['name 1']


def test_a_group_that_is_done_is_sent_as_it_is(make):
  work, _ = make()
  work.publish('weights', 3)
  work.add([task(0)])
  while not (finished := [*work.finished()]):
    assert work.step()
  ((name, data),) = finished
  ((example, its_name, samples),) = group_state.from_bytes(data)
  assert name == its_name == 'name 0' and example.id == group(0, None)[0].id
  for i, sample in enumerate(samples):
    length = stream_test.length_of('name 0', i, 24)
    assert sample.tokens.tolist() == [*range(length)]
    assert set(sample.versions.tolist()) == {3}


@pytest.mark.parametrize('recompute', [True, False])
def test_new_weights_compute_the_caches_again_unless_they_are_kept(
  recompute, make
):
  work, _ = make(recompute)
  work.publish('weights', 0)
  sampler = work._sampler
  work.add([task(0)])
  work.step()
  work.publish('new weights', 4)
  assert work.version == 4 and sampler.weights == ['new weights']
  begun = {0: stream_test.CHUNK}  # The other sample is done.
  expected = [('name 0', {}), ('name 0', begun)]
  assert sampler.entered == (expected if recompute else expected[:1])


@pytest.mark.parametrize('recompute', [True, False])
def test_a_learner_that_lost_weights_gets_no_token_of_theirs(recompute, make):
  work, _ = make(recompute)
  work.follow(start(0))
  work.publish('weights', 5)
  work.add([task(0)])
  work.step()
  # The learner starts again with version 5: nothing that is here was lost.
  work.follow(start(0, 5))
  assert work.version == 5 and work.names == ['name 0']
  work.publish('weights', 6)
  work.add([task(1)])
  work.step()
  assert work._groups['name 0'][1].samples[0].completion.versions[-1] == 6
  # And now with 5 again, so 6 is lost, and with it the tokens since.
  work.follow(start(0, 5, 5))
  assert (work.version, work.wanted, work.names) == (NO_VERSION, 0, [])
  assert not work.step()


def test_what_has_older_tokens_only_goes_on_under_the_right_weights(make):
  work, _ = make(recompute=False)
  work.follow(start(0))
  work.publish('weights', 5)
  work.add([task(0)])
  work.step()
  work.publish('lost', 6)
  work.follow(start(0, 5))
  assert work.names == ['name 0'] and not work.step()
  work.publish('weights', 5)
  # Whether caches are kept or not: those of lost weights are not.
  assert len(work._sampler.entered) == 2
  assert work.version == 5 and work.step()


def test_a_learner_of_another_run_gets_no_token_of_this_one(make):
  """Its folder was emptied and used again, while the sampler waited."""
  work, _ = make()
  work.follow(start(0))
  work.publish('weights', 0)
  work.add([task(0)])
  work.step()
  work.follow(start(0))  # Found again: the connection was lost.
  assert work.version == 0 and work.names == ['name 0']
  work.follow(start(0, secret='other'))
  assert (work.version, work.names) == (NO_VERSION, [])
  work.publish('other weights', 0)
  assert work._sampler.weights == ['other weights']


def test_the_share_of_slots_is_that_of_its_steps(make):
  work, _ = make()
  work.publish('weights', 0)
  work._sampler.counts['row_steps'] = 8
  work._sampler.take_slots_in_use = lambda: 0.5
  assert work.take_slots_in_use() == 0.5
  work._sampler.engine = SimpleNamespace(counts={'row_steps': 0})
  assert work.take_slots_in_use() is None
