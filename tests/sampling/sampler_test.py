"""Samples with their text, and for two at the same time."""

import dataclasses
import functools

import numpy as np

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.requests import join
from rlpt_jax.sampling.sampler import Sampler
from tests.sampling.decode_test import assert_same, requests, tiny
from tests.sampling.engine_test import PLAN


def test_samples_come_in_order_and_end_at_their_text(one_device):
  decoder, params = tiny(one_device)
  asked = requests(max_new_tokens=24)
  with Engine(decoder, params, PLAN) as engine:
    whole = list(Sampler(engine).run(asked))
    plain = list(Sampler(engine).complete(asked, None))
    for found, expected in zip(plain, whole, strict=True):
      for sample, completion in zip(found, expected, strict=True):
        assert sample.text is None
        np.testing.assert_array_equal(
          sample.completion.tokens, completion.tokens
        )
    # Some text of the second sample of the third prompt ends it: the first two
    # characters that stand together, for broken ones wait for those after them.
    tokenizer, steps = ByteTokenizer(), []
    tokens = whole[2][1].tokens
    first = next(
      i for i in range(len(tokens)) if (tokens[i : i + 2] < 128).all()
    )
    count = first + 2
    stop = tokenizer.decode(tokens[first:count])
    assert 2 < count < len(tokens)
    found = list(
      Sampler(engine).complete(asked, tokenizer, stop=(stop,),
        on_step=lambda *done: steps.append(done),
      )
    )  # fmt: skip
    assert engine.is_idle
    # One that is left early leaves nothing behind either.
    next(Sampler(engine).complete(asked, tokenizer))
    assert engine.is_idle
  ended = found[2][1]
  assert ended.finish_reason == ended.completion.finish_reason == 'stop'
  assert ended.completion.tokens.tolist() == tokens[:count].tolist()
  assert len(ended.completion.logprobs) == count
  assert not ended.text.endswith(stop)
  prompts, samples, _ = steps[-1]
  assert (prompts, samples) == (4, 12)


def test_two_at_the_same_time_lose_nothing(one_device):
  """Each drives the engine in turn, and gets what it gets alone."""
  decoder, params = tiny(one_device)
  first = requests(max_new_tokens=40)
  second = [
    dataclasses.replace(request, id=f'other {i}', max_new_tokens=11)
    for i, request in enumerate(requests(samples=2) * 3)
  ]
  with Sampler(Engine(decoder, params, PLAN)) as sampler:
    alone = [list(sampler.run(asked)) for asked in (first, second)]
    both = [sampler.run(first), sampler.run(second)]
    found = [[], []]
    while both[0] or both[1]:
      for i, groups in enumerate(both):
        group = next(groups, None) if groups else None
        if group is None:
          both[i] = None
        else:
          found[i].append(group)
    for mine, expected in zip(found, alone, strict=True):
      assert_same(mine, expected, tolerance=0)
    # One that leaves early takes only its own with it.
    leaving, staying = sampler.run(first), sampler.run(second)
    next(leaving), next(staying)
    leaving.close()
    assert_same(list(staying), alone[1][1:], tolerance=0)
    assert sampler.is_idle


def test_pieces_go_to_who_asked_until_he_cancels(one_device):
  decoder, params = tiny(one_device)
  asked = requests(max_new_tokens=40)[:2]
  with Sampler(Engine(decoder, params, PLAN)) as sampler:
    expected = list(sampler.run(asked))
    pieces = {0: [], 1: []}

    def deliver(request, sample, piece):
      pieces[request].append((sample, piece))
      if request == 0 and sample == 0:  # One that was enough.
        sampler.cancel(tickets[0], 1)

    tickets = [
      sampler.submit(request, functools.partial(deliver, i))
      for i, request in enumerate(asked)
    ]
    while not sampler.is_idle:
      sampler.step()
    sampler.cancel(tickets[0])  # It has ended: nothing happens.
    assert not sampler._deliver and not sampler._missing
  for request in (0, 1):
    for sample in range(3):
      parts = [piece for i, piece in pieces[request] if i == sample]
      if (request, sample) == (0, 1):
        assert not any(piece.finish_reason for piece in parts)
      else:
        whole = expected[request][sample]
        assert_same([[join(parts)]], [[whole]], tolerance=0)
