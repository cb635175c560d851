"""Settings for sampling, and the requests that follow from them."""

import dataclasses

import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.rollout.sampling import Interruption, Sampling


def test_an_interruption_is_text_until_it_is_sampled():
  sampling = Sampling(
    max_new_tokens=16,
    interruption=Interruption(
      phrase='So:</t>', after=[3, 5], answer=4, unless='</t>'
    ),
  )
  found = sampling.interrupted(ByteTokenizer())
  assert bytes(found.phrase) == b'So:</t>' and bytes(found.unless) == b'</t>'
  assert (found.after, found.answer) == ((3, 5), 4)
  assert Sampling().interrupted(ByteTokenizer()) is None
  # 5 tokens, 7 of the phrase, 4 of the answer.
  short = dataclasses.replace(sampling, max_new_tokens=15)
  with pytest.raises(
    ValueError, match='max_new_tokens=15: expected at least 1'
  ):
    short.interrupted(ByteTokenizer())


def test_a_request_has_all_that_was_set():
  example = Example(np.array([7, 8]), ('x',), 'asr', 'corpus', 'd', 0)
  sampling = Sampling(
    samples=3, max_new_tokens=5, temperature=0.5, top_k=2, top_p=0.9, min_p=0.1
  )
  found = sampling.request(example, 'name', ByteTokenizer(), seed=4)
  assert (found.prompt_tokens, found.id, found.samples) == ((7, 8), 'name', 3)
  assert (found.max_new_tokens, found.temperature) == (5, 0.5)
  assert (found.top_k, found.top_p, found.min_p) == (2, 0.9, 0.1)
  assert (found.seed, found.stops) == (4, ((ByteTokenizer().eos_ids[0],),))
