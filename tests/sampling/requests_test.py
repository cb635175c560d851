"""What may be asked, and the numbers that follow from a request alone."""

import re

import numpy as np
import pytest

from rlpt_jax.sampling import requests as lib
from rlpt_jax.sampling.requests import Completion, Interruption, Request


def _request(**changes):
  defaults = {'prompt_tokens': (1, 2), 'id': 'a', 'max_new_tokens': 5}
  return Request(**defaults | changes)


def _interruption(**changes):
  return Interruption(
    **{'phrase': (7,), 'after': (2, 9), 'answer': 3} | changes
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'prompt_tokens': ()}, 'prompt_tokens: expected a number of 1 to'),
    ({'prompt_tokens': (3, -1)}, 'prompt_tokens: expected token ids, got -1.'),
    ({'samples': 0}, 'samples: expected 1 to 2147483647, got 0.'),
    ({'samples': -2}, 'samples: expected 1 to 2147483647, got -2.'),
    ({'first_sample': -1}, 'first_sample: expected 0 to 2147483647, got -1.'),
    ({'seed': -1}, 'seed: expected 0 to 4294967295, got -1.'),
    ({'seed': 2**32}, 'seed: expected 0 to 4294967295, got 4294967296.'),
    ({'max_new_tokens': 0}, 'max_new_tokens: expected 1 to 2147483647, got 0.'),
    ({'max_new_tokens': 2**31}, 'max_new_tokens: expected 1 to 2147483647'),
    (
      {'samples': 2, 'max_new_tokens': (5, 0)},
      'max_new_tokens: expected 1 to 2147483647, got 0.',
    ),
    (
      {'samples': 2, 'max_new_tokens': (5, 2**31)},
      'max_new_tokens: expected 1 to 2147483647, got 2147483648.',
    ),
    (
      {'samples': 3, 'max_new_tokens': (5, 6)},
      'max_new_tokens: 2 limits for 3 samples: expected one limit per',
    ),
    ({'max_new_tokens': ()}, 'max_new_tokens: 0 limits for 1 samples'),
    ({'temperature': -0.1}, 'temperature: expected 0 to 1000000.0, got -0.1.'),
    (
      {'temperature': float('nan')},
      'temperature: expected 0 to 1000000.0, got',
    ),
    (
      {'temperature': float('inf')},
      'temperature: expected 0 to 1000000.0, got',
    ),
    ({'top_k': -1}, 'top_k: expected 0 to 2147483647, got -1.'),
    ({'top_k': 2**31}, 'top_k: expected 0 to 2147483647, got 2147483648.'),
    ({'top_p': 0.0}, 'top_p: expected 1e-06 to 1, got 0.0.'),
    ({'top_p': 1.1}, 'top_p: expected 1e-06 to 1, got 1.1.'),
    ({'min_p': -0.1}, 'min_p: expected 0 to 1, got -0.1.'),
    ({'min_p': float('nan')}, 'min_p: expected 0 to 1, got nan.'),
    ({'stops': ((),)}, 'stops: expected sequences of at least one token.'),
    ({'stops': ((1,), ())}, 'stops: expected sequences of at least one token.'),
    # The sampler's sign for any token: it would end at the first.
    ({'stops': ((1,), (5, -1))}, 'stops: expected token ids, got -1.'),
    ({'stops': ((2**31,),)}, 'stops: expected token ids, got 2147483648.'),
  ],
  ids=str,
)
def test_a_request_that_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    _request(**changes)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'after': (5, 4)}, 'after=(5, 4): expected 0 <= low <= high.'),
    ({'after': (-1, 4)}, 'after=(-1, 4): expected 0 <= low <= high.'),
    ({'phrase': ()}, 'phrase of 0 tokens, answer=3: expected at least one'),
    ({'answer': 0}, 'phrase of 1 tokens, answer=0: expected at least one'),
    ({'phrase': (3, -2)}, 'phrase: expected token ids, got -2.'),
    ({'unless': (-1,)}, 'unless: expected token ids, got -1.'),
    # The last position is a sum of these and has to be an int32.
    ({'answer': 2**31 - 1}, 'after=(2, 9), answer=2147483647: 2147483657 tok'),
    ({'after': (0, 2**31)}, 'expected at most 2147483647.'),
  ],
  ids=str,
)
def test_an_interruption_that_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    _interruption(**changes)


def test_the_ends_of_the_ranges_are_in():
  _request(
    seed=2**32 - 1, first_sample=2**31 - 1, top_k=2**31 - 1, top_p=1e-6,
    min_p=1.0, temperature=0.0, max_new_tokens=2**31 - 1, prompt_tokens=(0,),
    stops=((0,),),
  )  # fmt: skip
  _request(top_p=1, min_p=0, temperature=1e6, seed=0, max_new_tokens=1)
  _interruption(after=(0, 0), answer=1, unless=(0,))
  _interruption(after=(0, 2**31 - 3), answer=1)


def test_limits_are_one_for_each_sample():
  assert _request(samples=3).limits == (5, 5, 5)
  assert _request(samples=2, max_new_tokens=(4, 7)).limits == (4, 7)


GOLDEN = {
  '': [0, 1470146276, 3031595380, 0],
  'a': [3, 0x399EF840, 0x2F42665B, 5],  # blake2b: 40f89e39 5b66422f
  'Æ/1': [0, 553065980, 2642653557, 1],
  'interrupted': [10, 11, 13, 14, 13, 14, 14, 13],
}


def test_key_words_are_those_of_yesterday():
  # What a run sampled can be sampled again by any later version.
  assert _request(id='').key_words(0).tolist() == GOLDEN['']
  assert _request(id='a', seed=3).key_words(5).tolist() == GOLDEN['a']
  assert _request(id='Æ/1').key_words(1).tolist() == GOLDEN['Æ/1']
  words = _request(seed=2**32 - 1).key_words(2**32 - 1)
  assert words.dtype == np.uint32 and words[0] == words[3] == 2**32 - 1


def test_key_words_differ():
  words = [
    tuple(_request(id=id, seed=seed).key_words(sample))
    for id in ('', 'a', 'b', 'ab', 'a/1', 'a/11', *map(str, range(300)))
    for seed in (0, 1, 2**32 - 1)
    for sample in range(8)
  ]
  assert len(set(words)) == len(words)
  # Each half of the digest alone tells ids apart.
  for i in (1, 2):
    assert len({w[i] for w in words}) == 306


def test_samples_do_not_depend_on_where_the_request_begins():
  whole = _request(samples=8, interruption=_interruption())
  rest = _request(samples=3, first_sample=5, interruption=_interruption())
  for i in range(3):
    sample = rest.first_sample + i
    assert (whole.key_words(sample) == rest.key_words(sample)).all()
    assert whole.interrupted_at(sample) == rest.interrupted_at(sample)


def test_interruptions_are_spread_evenly_over_their_range():
  request = _request(interruption=_interruption(after=(10, 14)))
  found = [request.interrupted_at(sample) for sample in range(5000)]
  values, counts = np.unique(found, return_counts=True)
  assert values.tolist() == [10, 11, 12, 13, 14]
  # 1000 of each, with a standard deviation of 28.
  assert np.abs(counts - 1000).max() < 120
  assert found[:8] == GOLDEN['interrupted']
  # Not in step with the samples of another request.
  other = _request(id='b', interruption=_interruption(after=(10, 14)))
  same = np.mean([other.interrupted_at(i) == found[i] for i in range(1000)])
  assert 0.15 < same < 0.25
  fixed = _request(interruption=_interruption(after=(4, 4)))
  assert {fixed.interrupted_at(sample) for sample in range(20)} == {4}
  assert _request().interrupted_at(0) == lib.NEVER == 2**31 - 1


def _piece(tokens, version, finish_reason):
  tokens = np.array(tokens, np.int32)
  return Completion(
    tokens,
    -tokens.astype(np.float32),
    -2 * tokens.astype(np.float32),
    tokens > 5,
    np.full(len(tokens), version, np.int32),
    finish_reason,
  )


def test_pieces_join_in_order():
  whole = lib.join(
    [_piece([4, 9], 0, None), _piece([6], 2, None), _piece([], 3, 'length')]
  )
  assert whole.tokens.tolist() == [4, 9, 6]
  assert whole.logprobs.tolist() == [-4, -9, -6]
  assert whole.policy_logprobs.tolist() == [-8, -18, -12]
  assert whole.is_own.tolist() == [False, True, True]
  assert whole.versions.tolist() == [0, 0, 2]
  assert whole.finish_reason == 'length'
  for name, dtype in (
    ('tokens', np.int32), ('logprobs', np.float32),
    ('policy_logprobs', np.float32), ('is_own', bool), ('versions', np.int32),
  ):  # fmt: skip
    assert getattr(whole, name).dtype == dtype, name


def test_a_completion_without_its_first_tokens_is_the_rest_of_it():
  tokens = np.arange(5, dtype=np.int32)
  whole = Completion(
    tokens=tokens, logprobs=-tokens / 2, policy_logprobs=-tokens / 4,
    is_own=tokens % 2 == 0, versions=tokens // 2, finish_reason='stop',
  )  # fmt: skip
  rest = lib.without_first(whole, 2)
  assert rest.tokens.tolist() == [2, 3, 4]
  assert rest.versions.tolist() == [1, 1, 2]
  assert rest.finish_reason == 'stop'
  again = lib.join([lib.cut(whole, 2), rest])
  for name in ('tokens', 'logprobs', 'policy_logprobs', 'is_own', 'versions'):
    np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
