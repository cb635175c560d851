"""What a run carries from step to step is that of what it has consumed."""

from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.algorithms import advantages
from rlpt_jax.rollout.consumer import Consumer
from rlpt_jax.rollout.experience import Collected, make_experience
from rlpt_jax.rollout.verdicts import NoVerdicts, Verdicts
from tests.rollout.experience_test import OPTIONS, groups


class Ledger:
  totals = {'tokens': 0}  # noqa: RUF012

  def add(self, roles, scored):
    tokens = sum(role.learned_P.sum() for role in roles) + sum(scored)
    self.totals = {'tokens': self.totals['tokens'] + tokens}
    return {'compute/tokens': tokens}


def make_consumer(record):
  ledger = Ledger()
  ledger.totals = record.get('ledger', Ledger.totals)
  verdicts = Verdicts(3, record.get('unjudged', 0))
  return Consumer(advantages.RunningNormalized(), verdicts, ledger, record)


def experience(size, position):
  some = groups([[0, size], [0, 0]], [True, False])
  return make_experience(
    [Collected(some, 2, 2)], **OPTIONS | {'resume': {'position': position}}
  )


def test_a_run_resumes_after_what_it_consumed():
  made = [experience(2.0 + i, i) for i in range(3)]  # Ahead of the consumer.
  whole, record = make_consumer({}), None
  lines = []
  for step, each in enumerate(made):
    found = whole(step, each)
    lines.append((found.first.advantages_PG.tolist()[0], whole.metrics(found)))
    record = record if step else whole.record(found)
  assert record['position'] == 0 and record['ledger'] == {'tokens': 1}
  again = make_consumer(record)
  for step in (1, 2):
    found = again(step, made[step])
    assert found.first.advantages_PG.tolist()[0] == lines[step][0]
    assert again.metrics(found) == lines[step][1]
  assert again.record(found) == whole.record(found)
  assert again.record(found)['ledger'] == {'tokens': 3}


def test_a_broken_judge_ends_the_run_when_its_step_is_learned():
  each = experience(1.0, 0)
  nothing_PG = np.full((2, 2), np.nan, np.float32)
  scores = SimpleNamespace(
    rewards_PG=nothing_PG, reasons_PG=np.full((2, 2), 'judge/failed'),
    parts={}, answers_PG=None,
  )  # fmt: skip
  object.__setattr__(each.first.judged, 'scores', scores)
  with pytest.raises(NoVerdicts, match='step 5: 4 of 4 verdicts are missing'):
    make_consumer({})(4, each)


def test_each_role_has_its_own_state_of_advantages():
  both = [
    Collected(groups([[0, 2.0]], [True]), 1, 2),
    Collected(groups([[0, 20.0]], [True]), 1, 2, 'other'),
  ]
  made = make_experience(both, **OPTIONS)
  ledger, running = Ledger(), advantages.RunningNormalized()
  roles = ('', 'other')
  consumer = Consumer(running, Verdicts(3), ledger, {}, roles)
  found = consumer(0, made)
  for role in found.roles:
    np.testing.assert_allclose(role.advantages_PG, [[-1, 1]], rtol=1e-3)
  record = consumer.record(found)
  assert record['advantages'].keys() == set(roles)
  again = Consumer(running, Verdicts(3), ledger, record, roles)
  again, once = again(1, made), consumer(1, made)
  for a, b in zip(again.roles, once.roles, strict=True):
    assert a.advantages_PG.tolist() == b.advantages_PG.tolist()


def test_scored_tokens_are_counted():
  made = make_experience(
    [Collected(groups([[0, 2.0]], [True]), 1, 2)], **OPTIONS, scored=[30, 5]
  )
  consumer = make_consumer({})
  assert consumer.metrics(consumer(0, made))['compute/tokens'] == 1 + 35
