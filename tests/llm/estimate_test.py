"""An estimate from a sample is close to what a whole run uses."""

import math
import random

import pytest

from rlpt_jax.llm import estimate as lib
from rlpt_jax.llm.budget import Usage


def _record(name, stage, prompt, completion, money=0.0):
  usage = {'prompt_tokens': prompt, 'completion_tokens': completion}
  return {
    'id': name, 'stage': stage, 'reply': '', 'usage': usage, 'money': money,
  }  # fmt: skip


def _records_of(lengths, rng):
  """Yields records as of four stages, of which a document may miss the last."""
  for name, length in lengths.items():
    stages = ['filter'] + (rng.random() < 0.7) * ['identify']
    if len(stages) == 2:
      stages += ['generate', 'check'] * rng.randint(1, 3)
    stages += (rng.random() < 0.1) * ['filter']  # Repeated.
    for stage in stages:
      prompt, completion = 300 + length // 4, rng.randint(50, 400)
      money = (2 * prompt + 8 * completion) / 1e6
      yield _record(name, stage, prompt, completion, money)


def test_a_sample_is_within_20_percent_and_knows_its_margin():
  """Of 50 samples of 100 documents; the longest tenth has half of the text."""
  rng = random.Random(0)
  lengths = {f'd{i}': int(rng.lognormvariate(8, 1)) for i in range(2000)}
  by_id, whole = {}, Usage()
  for record in _records_of(lengths, rng):
    by_id.setdefault(record['id'], []).append(record)
    whole += lib._usage(record)
  close = covered = 0
  for _ in range(50):
    names = rng.sample(list(lengths), 100)
    found = lib.estimate(
      [record for name in names for record in by_id[name]],
      {name: lengths[name] for name in names},
      list(lengths.values()),
    )
    error = abs(found.total.money / whole.money - 1)
    close += error < 0.2
    covered += error < found.margin
    for what in ('calls', 'prompt_tokens', 'completion_tokens', 'money'):
      parts = sum(getattr(usage, what) for usage in found.by_stage.values())
      assert parts == pytest.approx(getattr(found.total, what))
      assert getattr(found.total, what) == pytest.approx(
        getattr(whole, what), rel=0.4
      )
  assert close >= 48
  assert covered >= 43


def test_what_grows_with_the_length_is_exact():
  # 10 + 2 * length tokens in each prompt, 5 in each reply; a quarter estimated.
  sample = {'a': 1, 'b': 4, 'c': 10, 'd': 3}
  records = [_record(x, 's', 10 + 2 * sample[x], 5) for x in sample]
  records[0]['usage']['estimated'] = True
  other = [_record('e', 's', 10**6, 1), {'id': 'a', 'stage': 's', 'fault': ''}]
  found = lib.estimate(records + other, sample, [1, 4, 10, 3, 100, 200])
  assert found.total.prompt_tokens == pytest.approx(6 * 10 + 2 * 318)
  assert found.total.completion_tokens == pytest.approx(30)
  assert found.total.calls == pytest.approx(6)
  assert found.margin == pytest.approx(0, abs=1e-9)
  assert found.by_stage == {'s': found.total}


def test_the_margin_follows_from_the_sample():
  # Mean 1.5, standard deviation with n - 2: sqrt(1 / (4 - 2)); of 8 documents
  # a half is unknown: 1.96 * 8 * sqrt(0.5 / 4 * 0.5) / (8 * 1.5).
  sample = dict.fromkeys('abcd', 7)
  records = [
    _record(x, 's', n, 0) for x, n in zip('abcd', [1, 2, 1, 2], strict=True)
  ]
  found = lib.estimate(records, sample, [7] * 8)
  assert found.total.tokens == 12
  assert found.margin == pytest.approx(1.96 * math.sqrt(1 / 16) / 1.5)
  assert lib.estimate(records, sample, [7] * 4).margin == 0
  few = lib.estimate(records, {'a': 7, 'b': 7}, [7] * 4)
  assert (few.total.tokens, few.margin) == (6, math.inf)


def test_no_sample_is_no_estimate():
  with pytest.raises(ValueError, match='sample: 0 of 3 documents'):
    lib.estimate([], {}, [1, 2, 3])
