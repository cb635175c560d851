"""What is sampled, in what proportion, and which random numbers decide it.

The reference is numpy in float64, in the order of transformers: temperature,
top_k, top_p, min_p. One thing differs from theirs by intent: tokens as probable
as the last that a filter keeps all stay in.
"""

import functools

import jax
import jax.export
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rlpt_jax.sampling import logits as lib

SAMPLES = 100_000
V = 24
# Falling, uneven, three pairs of ties, and two tokens that cannot be.
LOGITS = 2.5 - 0.9 * np.arange(V) ** 0.7
LOGITS[[2, 6, 11]] = LOGITS[[1, 5, 10]]
LOGITS[[3, 20]] = -np.inf
LOGITS = np.random.default_rng(0).permutation(LOGITS).astype(np.float32)

choose = jax.jit(lambda *arguments: lib.choose(*arguments)[:2])


@jax.jit
def kept_by(x_BV, settings):
  scaled_BV = x_BV - x_BV.max(-1, keepdims=True)
  return scaled_BV >= lib.border(lambda: scaled_BV, settings)[:, None]


@jax.jit
def policy_logprob(logits_BV, token_B):
  B = len(token_B)
  choice = lib.choose(logits_BV, _keys(B), _positions(B), _settings(B))
  return choice.policy_logprob(logits_BV, token_B)


def _settings(rows, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
  """Of every row, from a number for all or one for each."""
  full = functools.partial(np.full, rows)
  return lib.Settings(
    full(temperature, np.float32),
    full(top_k, np.int32),
    full(top_p, np.float32),
    full(min_p, np.float32),
  )


def _keys(rows, seed=0):
  words_BC = np.zeros((rows, 4), np.uint32)
  words_BC[:, 0], words_BC[:, 3] = seed, np.arange(rows)
  return jax.jit(lib.row_keys)(words_BC)


def _positions(rows):
  return np.zeros(rows, np.int32)


def _softmax(x_V):
  weights_V = np.exp(x_V - x_V.max())
  return weights_V / weights_V.sum()


def _expected(logits_V, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
  """The probabilities of tokens, in float64 and with a sort."""
  x_V = logits_V.astype(np.float64)
  if not temperature:
    return np.eye(len(x_V))[x_V.argmax()]
  x_V = x_V / temperature
  if top_k:
    x_V[x_V < np.sort(x_V)[::-1][min(top_k, len(x_V)) - 1]] = -np.inf
  if top_p < 1:
    p_V = _softmax(x_V)
    falling_V = np.sort(p_V)[::-1]
    x_V[p_V < falling_V[(falling_V.cumsum() < top_p).sum()]] = -np.inf
  p_V = _softmax(x_V)
  x_V[p_V < min_p * p_V.max()] = -np.inf
  return _softmax(x_V)


OPTIONS = [
  {},
  {'temperature': 0.5},
  {'temperature': 1.7},
  {'temperature': 0.0},
  {'temperature': 0.0, 'top_k': 5, 'top_p': 0.5, 'min_p': 0.1},
  {'top_k': 1},
  {'top_k': 2},  # A tie at the border: three stay.
  {'top_k': 9},
  {'top_p': 0.3},
  {'top_p': 0.6},  # A tie at the border here too.
  {'top_p': 0.97},
  {'min_p': 0.05},
  {'min_p': 0.5},
  {'temperature': 1.7, 'top_k': 8},
  {'temperature': 1.7, 'min_p': 0.3},
  {'temperature': 0.5, 'top_p': 0.88},
  # top_p of what top_k leaves, not of the whole; min_p of what is left.
  {'top_k': 6, 'top_p': 0.88},
  {'top_p': 0.9, 'min_p': 0.2},
  {'temperature': 1.7, 'top_k': 12, 'top_p': 0.85, 'min_p': 0.15},
]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_tokens_come_in_the_right_proportions(options):
  logits_BV = np.tile(LOGITS, (SAMPLES, 1))
  token_B, logprob_B = jax.device_get(
    choose(
      logits_BV,
      _keys(SAMPLES),
      _positions(SAMPLES),
      _settings(SAMPLES, **options),
    )
  )
  expected_V = _expected(LOGITS, **options)
  found_V = np.bincount(token_B, minlength=V)
  assert not found_V[expected_V == 0].any()
  # The test wants some of each: those that are rare count as one.
  wanted_V = SAMPLES * expected_V
  bins_V = np.where(wanted_V < 10, V, np.arange(V))
  found, wanted = (
    np.bincount(bins_V, x, minlength=V + 1) for x in (found_V, wanted_V)
  )
  some = wanted > 0
  if some.sum() > 1:
    p = scipy.stats.chisquare(found[some], wanted[some]).pvalue
    assert p > 1e-4, (found, wanted)
  # And the log-probability is that of this distribution.
  np.testing.assert_allclose(
    logprob_B, np.log(expected_V[token_B]), atol=1e-5, rtol=0
  )
  if not options.get('temperature', 1.0):
    assert (logprob_B == 0).all()


def test_the_cases_above_tell_the_orders_apart():
  def count(**options):
    return int((_expected(LOGITS, **options) > 0).sum())

  assert count() == V - 2
  assert count(top_k=2) == count(top_k=3) == 3
  # 0.467 + 0.190 + 0.190: the third is as probable as the one that is needed.
  assert count(top_p=0.6) == count(top_p=0.8) == 3
  # After top_k a token has a larger share of what is left.
  assert count(top_k=6, top_p=0.88) < min(count(top_k=6), count(top_p=0.88))
  assert count(temperature=0.5, top_p=0.88) < count(top_p=0.88)
  assert count(temperature=0.5, min_p=0.05) < count(min_p=0.05)


@pytest.mark.parametrize(
  ('temperature', 'top_k', 'top_p', 'min_p'),
  [
    (1.0, 7, 1.0, 0.0),
    (1.0, 0, 0.6, 0.0),
    (0.7, 0, 0.95, 0.0),
    (1.0, 0, 1.0, 0.1),
    (1.7, 0, 1.0, 0.02),
    (0.8, 20, 0.9, 0.05),
    (1.3, 1, 0.5, 0.9),
    (1.0, 500, 0.99, 0.001),
  ],
)
def test_the_tokens_that_transformers_keeps(temperature, top_k, top_p, min_p):
  import torch
  import transformers

  rows, size = 200, 80
  # Of another seed a border may fall within the 1e-6 by which top_p is less.
  rng = np.random.default_rng(3)
  logits_BV = (rng.normal(size=(rows, size)) * 2).astype(np.float32)
  warpers = [transformers.TemperatureLogitsWarper(temperature)]
  if top_k:
    warpers.append(transformers.TopKLogitsWarper(top_k))
  if top_p < 1:
    warpers.append(transformers.TopPLogitsWarper(top_p))
  if min_p:
    warpers.append(transformers.MinPLogitsWarper(min_p))
  scores = torch.tensor(logits_BV)
  for warp in warpers:
    scores = warp(None, scores)
  found_BV = kept_by(
    logits_BV / np.float32(temperature),
    _settings(rows, top_k=top_k, top_p=top_p, min_p=min_p),
  )
  np.testing.assert_array_equal(found_BV, np.isfinite(scores.numpy()))


def test_logprob_is_that_of_the_logits_as_they_are():
  rng = np.random.default_rng(2)
  logits_BV = (rng.normal(size=(40, 50)) * 5).astype(np.float32)
  logits_BV[20:] += 1e4  # What all have in common costs no digits.
  token_B = rng.integers(0, 50, 40).astype(np.int32)
  found_B = policy_logprob(logits_BV, token_B)
  wide_BV = logits_BV.astype(np.float64)
  expected_B = [
    np.log(_softmax(x_V)[t]) for x_V, t in zip(wide_BV, token_B, strict=True)
  ]
  np.testing.assert_allclose(found_B, expected_B, atol=1e-5, rtol=0)


# Rows.

MIXED = {
  'temperature': [1.0, 0.7, 0.0, 1.7, 1.0, 0.9, 1.0, 0.0],
  'top_k': [0, 0, 0, 5, 0, 20, 0, 3],
  'top_p': [1.0, 1.0, 1.0, 1.0, 0.8, 0.9, 1.0, 0.5],
  'min_p': [0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.0],
}


def _mixed_rows(rows_B):
  """Arguments of `choose` with rows of one population, in any order."""
  N, size = len(MIXED['top_k']), 501
  rng = np.random.default_rng(3)
  logits_NV = (rng.normal(size=(N, size)) * 3).astype(np.float32)
  rows_B = np.asarray(rows_B)
  settings = _settings(N, **MIXED)
  return (
    logits_NV[rows_B],
    _keys(N)[rows_B],
    (np.arange(N, dtype=np.int32) * 7)[rows_B],
    jax.tree.map(lambda x: x[rows_B], settings),
  )


def test_a_row_does_not_see_its_neighbours():
  N = len(MIXED['top_k'])
  token_N, logprob_N = jax.device_get(choose(*_mixed_rows(range(N))))
  rng = np.random.default_rng(4)
  orders = [rng.integers(0, N, N) for _ in range(20)]
  # With no filter anywhere, and with nothing but filters.
  orders += [np.array([0, 1, 2, 0, 1, 2, 0, 1]), np.array([3, 4, 5, 6] * 2)]
  for rows_B in orders:
    token_B, logprob_B = jax.device_get(choose(*_mixed_rows(rows_B)))
    np.testing.assert_array_equal(token_B, token_N[rows_B])
    # Every bit.
    np.testing.assert_array_equal(logprob_B, logprob_N[rows_B])


def test_the_size_of_a_batch_changes_no_token():
  N = len(MIXED['top_k'])
  token_N, logprob_N = jax.device_get(choose(*_mixed_rows(range(N))))
  for rows_B in ([0], [5], [7, 3, 1], [*range(N)] * 3):
    token_B, logprob_B = jax.device_get(choose(*_mixed_rows(rows_B)))
    np.testing.assert_array_equal(token_B, token_N[rows_B])
    np.testing.assert_allclose(logprob_B, logprob_N[rows_B], atol=1e-6)


# Random numbers.


@functools.partial(jax.jit, static_argnums=2)
def _noise(words_BC, position_B, size):
  return lib._gumbel(lib.row_keys(words_BC), position_B, size)


@pytest.mark.parametrize('size', [1, 2, 25, 1000])
def test_accelerators_sample_the_same_tokens(size):
  rng = np.random.default_rng(0)
  # Whole numbers, so that greedy rows have ties; and tokens that are dropped.
  kept_BV = rng.integers(-5, 1, (500, size)).astype(np.float32)
  kept_BV[rng.random(kept_BV.shape) < 0.2] = -np.inf
  kept_BV[:3] = -np.inf
  kept_BV[3] = np.nan  # Any token will do, but it must be one.
  words_BC = rng.integers(0, 2**32, (500, 4), dtype=np.uint32)
  position_B = rng.integers(0, 9000, 500)
  arguments = lib.row_keys(words_BC), position_B, np.arange(500) % 2 == 0
  found_B, expected_B = (
    np.asarray(jax.jit(f)(kept_BV, *arguments))
    for f in (lib._sample_in_pairs, lib._sample_with_stored_noise)
  )
  np.testing.assert_array_equal(found_B[4:], expected_B[4:])
  assert (found_B >= 0).all() and (found_B < size).all()


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_accelerators_store_no_noise(platform):
  rows = 8
  exported = jax.export.export(choose, platforms=[platform])(
    jax.ShapeDtypeStruct((rows, 512), jnp.float32), _keys(rows),
    _positions(rows), _settings(rows),
  )  # fmt: skip
  text = exported.mlir_module()
  assert 'tensor<8x256xui32>' in text and 'optimization_barrier' not in text


def test_threefry_is_threefry():
  # The known answers of Random123, the authors' own library.
  for word, expected in (
    (0, (0x6B200159, 0x99BA4EFE)),
    (0xFFFFFFFF, (0x1CB996FC, 0xBB002BE7)),
  ):
    word = jnp.uint32(word)
    assert tuple(map(int, lib.threefry((word, word), (word, word)))) == expected
  rng = np.random.default_rng(0)
  key_2, counter_X = (
    jnp.asarray(rng.integers(0, 2**32, size, dtype=np.uint32))
    for size in (2, 200)
  )
  found = lib.threefry(tuple(key_2), tuple(jnp.split(counter_X, 2)))
  np.testing.assert_array_equal(
    jnp.concatenate(found), jax.extend.random.threefry_2x32(key_2, counter_X)
  )


def test_streams_of_different_rows_are_not_related():
  # (seed, id, id, sample, position): all that differ in one place by a little,
  # and two with their words exchanged.
  streams = [
    (seed, high, low, sample, position)
    for seed in (0, 1, 2**32 - 1)
    for high, low in ((0, 0), (0, 1), (1, 0))
    for sample in (0, 1, 2, 3)
    for position in (0, 1, 2, 3)
  ]
  words_BC = np.array(streams, np.uint32)
  size = 2048
  noise_BV = _noise(words_BC[:, :4], words_BC[:, 4].astype(np.int32), size)
  again_BV = _noise(words_BC[:, :4], words_BC[:, 4].astype(np.int32), size)
  np.testing.assert_array_equal(noise_BV, again_BV)
  correlation = np.corrcoef(noise_BV) - np.eye(len(streams))
  # 10,296 pairs, each with a standard deviation of 1 / sqrt(2048).
  assert np.abs(correlation).max() < 5 / size**0.5
  # Nor is one a shifted copy of another.
  values, counts = np.unique(np.asarray(noise_BV), return_counts=True)
  assert len(values) > 0.99 * noise_BV.size, counts.max()


def test_samples_of_a_group_differ():
  G, T = 8, 16
  rows = [(0, 5, 6, sample) for sample in range(G) for _ in range(T)]
  position_B = np.tile(np.arange(T, dtype=np.int32), G)
  token_B, _ = choose(
    np.zeros((G * T, 500), np.float32),
    lib.row_keys(np.array(rows, np.uint32)),
    position_B,
    _settings(G * T),
  )
  token_GT = np.asarray(token_B).reshape(G, T)
  same = token_GT[:, None] == token_GT
  # A pair of samples agrees at 16 / 500 = 0.03 positions: 0.9 in 28 pairs.
  assert same[np.triu_indices(G, 1)].sum() < 8


def test_noise_is_gumbel_and_fine_in_its_tail():
  words_BC = np.arange(64, dtype=np.uint32).reshape(16, 4)
  noise = np.asarray(_noise(words_BC, _positions(16), 2**17)).ravel()
  assert np.isfinite(noise).all()
  # Two million of them: exponentials of mean and deviation 1.
  exponential = np.exp(-noise.astype(np.float64))
  assert abs(exponential.mean() - 1) < 5 / len(noise) ** 0.5
  assert scipy.stats.kstest(exponential, 'expon').pvalue > 1e-3
  # The largest thousand decide about rare tokens: of steps of 2^-23 there
  # would be 4,000 to choose from, and a hundred of them would be taken twice.
  largest = np.sort(noise)[-1000:]
  assert len(np.unique(largest)) > 995


# Edges.


def _all(logits_V, *, rows=400, **options):
  """(tokens, log-probabilities) of many rows of the same logits."""
  logits_BV = np.tile(np.asarray(logits_V, np.float32), (rows, 1))
  return jax.device_get(
    choose(logits_BV, _keys(rows), _positions(rows), _settings(rows, **options))
  )


@pytest.mark.parametrize(
  'options', [{'top_k': 1}, {'top_p': 1e-6}, {'min_p': 1.0}, {'temperature': 0}]
)
def test_filters_that_leave_one_token_are_greedy(options):
  logits_V = np.random.default_rng(5).permutation(V)
  token_B, logprob_B = _all(logits_V, **options)
  assert (token_B == logits_V.argmax()).all()
  assert (logprob_B == 0).all()


@pytest.mark.parametrize('options', [{'top_k': V + 1}, {'top_k': V}])
def test_filters_that_leave_all(options):
  expected = _all(LOGITS)
  for found, plain in zip(_all(LOGITS, **options), expected, strict=True):
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
  'options', [{}, {'top_k': 1}, {'top_p': 0.1}, {'min_p': 1.0}]
)
def test_equal_logits_all_stay(options):
  token_B, logprob_B = _all(np.full(V, -3.0), **options)
  assert set(token_B) == set(range(V))
  np.testing.assert_allclose(logprob_B, -np.log(V), atol=1e-6)
  # The first of them, where one is to be taken.
  token_B, logprob_B = _all(np.full(V, -3.0), temperature=0, **options)
  assert not token_B.any() and not logprob_B.any()


@pytest.mark.parametrize('size', [1e4, -1e4, 1e30])
def test_huge_logits(size):
  logits_V = np.float32(size) * np.array([1, 1, -1, 0.5, -2], np.float32)
  for options in ({}, {'top_p': 0.9}, {'min_p': 0.1}, {'temperature': 1e-6}):
    token_B, logprob_B = _all(logits_V, **options)
    top = np.flatnonzero(logits_V == logits_V.max())
    assert set(token_B) == set(top)
    np.testing.assert_allclose(logprob_B, -np.log(len(top)), atol=1e-6)
  # Far from zero and near each other.
  near_V = np.float32(size / abs(size) * 1e4) + LOGITS
  expected_V = _expected(near_V, temperature=0.5)
  token_B, logprob_B = _all(near_V, temperature=0.5)
  np.testing.assert_allclose(logprob_B, np.log(expected_V[token_B]), atol=1e-5)


@pytest.mark.parametrize('temperature', [1e-30, 1.2e-38, 1e-40, 1e-46])
def test_temperatures_near_zero_are_greedy(temperature):
  # Large enough that the two best, divided by it, would both be infinite.
  token_B, logprob_B = _all(LOGITS * 4, temperature=temperature)
  assert (token_B == LOGITS.argmax()).all()
  assert (logprob_B == 0).all()


def test_one_possible_token():
  logits_V = np.full(V, -np.inf)
  logits_V[V - 2] = -7
  for options in OPTIONS:
    token_B, logprob_B = _all(logits_V, **options)
    assert (token_B == V - 2).all() and (logprob_B == 0).all(), options


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_reported_as_nan(bad):
  logits_BV = np.tile(LOGITS, (400, 1))
  logits_BV[0, 4] = bad
  good_B, _ = _all(LOGITS)
  for options in OPTIONS:
    token_B, logprob_B = choose(
      logits_BV, _keys(400), _positions(400), _settings(400, **options)
    )
    assert np.flatnonzero(np.isnan(logprob_B)).tolist() == [0], options
    assert 0 <= token_B[0] < V
    if not options:
      np.testing.assert_array_equal(token_B[1:], good_B[1:])
  # XLA's maximum on a CPU lets a NaN pass or not by the shape: few rows too.
  for options in OPTIONS:
    _, logprob_B = choose(
      logits_BV[:2], _keys(2), _positions(2), _settings(2, **options)
    )
    assert np.isnan(logprob_B).tolist() == [True, False], options
  policy_B = policy_logprob(logits_BV, token_B)
  assert np.flatnonzero(np.isnan(policy_B)).tolist() == [0]


def test_a_flat_distribution_over_a_large_vocabulary():
  size = 150_000
  rows_V = [np.zeros(size), np.linspace(0, 1e-2, size)]
  logits_BV = np.stack(rows_V).astype(np.float32)
  for options, count in (
    # Ties: nothing tells the first row's tokens apart.
    ({'top_k': 1000}, [size, 1000]),
    ({'top_p': 0.5}, [size, None]),
    ({'top_k': 1000, 'top_p': 0.25}, [size, None]),
    ({'min_p': 1.0}, [size, 1]),
  ):
    found_B = kept_by(logits_BV, _settings(2, **options)).sum(-1)
    assert found_B[0] == count[0]
    expected = (_expected(logits_BV[1], **options) > 0).sum()
    # In float32 a sum of so many has four good digits.
    assert abs(found_B[1] - expected) <= 1e-3 * expected
    assert count[1] in (None, found_B[1])
  token_B, logprob_B = choose(
    logits_BV, _keys(2), _positions(2), _settings(2, top_p=0.999)
  )
  assert (token_B >= 0).all() and (token_B < size).all()
  np.testing.assert_allclose(logprob_B, -np.log(size), atol=1e-2)


VALUES = {
  'negative': -np.geomspace(1e-3, 1e5, 40),
  'positive': np.geomspace(1e-3, 1e5, 40),
  'mixed': np.concatenate([-np.geomspace(1e-38, 3e38, 20), [0.0, -0.0],
                           np.geomspace(1e-38, 3e38, 20)]),
  'neighbours': np.cumsum(np.full(40, 2.0**-22)) + 2,
  'denormal': np.concatenate([np.linspace(-1e-39, 1e-39, 9), [1e-45, 2.0, -2]]),
  'ties': np.repeat([3.0, -1.0, 0.5], 5),
  'infinite': np.array([-np.inf, -np.inf, 1.0, 2.0, -5.0]),
  'one': np.array([-7.25]),
}  # fmt: skip


@pytest.mark.parametrize('name', VALUES)
def test_the_largest_border_is_found_to_the_last_bit(name):
  values_V = np.random.default_rng(6).permutation(VALUES[name])
  values_V = values_V.astype(np.float32)
  size = len(values_V)
  x_BV = jnp.asarray(np.tile(values_V, (size, 1)))
  count_B = jnp.arange(1, size + 1)

  @jax.jit
  def border(x_BV):
    return lib._largest_border(
      lambda border_B: (x_BV >= border_B[:, None]).sum(-1) >= count_B, x_BV
    )

  def flushed(x):
    # The CPU takes denormal numbers for zero, when it compares them too.
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, 0, x)

  falling = np.sort(values_V)[::-1]
  np.testing.assert_array_equal(flushed(border(x_BV)), flushed(falling))
