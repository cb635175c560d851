"""Samples with their text; `rlpt generate` is tested by its command."""

import numpy as np

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.sampling import rollouts
from rlpt_jax.sampling.engine import Engine
from tests.sampling.decode_test import requests, tiny
from tests.sampling.engine_test import PLAN


def test_samples_come_in_order_and_end_at_their_text(one_device):
  decoder, params = tiny(one_device)
  asked = requests(max_new_tokens=24)
  with Engine(decoder, params, PLAN) as engine:
    whole = list(engine.run(asked))
    plain = list(rollouts.complete(engine, asked, None))
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
      rollouts.complete(
        engine, asked, tokenizer, stop=(stop,),
        on_step=lambda *done: steps.append(done),
      )
    )  # fmt: skip
    assert engine.is_idle
    # One that is left early leaves nothing behind either.
    next(rollouts.complete(engine, asked, tokenizer))
    assert engine.is_idle
  ended = found[2][1]
  assert ended.finish_reason == ended.completion.finish_reason == 'stop'
  assert ended.completion.tokens.tolist() == tokens[:count].tolist()
  assert len(ended.completion.logprobs) == count
  assert not ended.text.endswith(stop)
  prompts, samples, _ = steps[-1]
  assert (prompts, samples) == (4, 12)
