"""Samples a token from each row's logits; computes its log-probability.

Each row has its own settings and random numbers, and no row depends on another.
The filters top_k and top_p find their thresholds by bisection. Sorting would be
slow everywhere and need a gather if the vocabulary is sharded.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rlpt_jax.sampling.logits_kernel import Rows


@struct.dataclass
class Settings:
  """The sampling settings of `requests.Request` for every row."""

  temperature_B: jax.Array
  top_k_B: jax.Array
  top_p_B: jax.Array
  min_p_B: jax.Array


def row_keys(words_BC):
  """[B, 2] uint32: the random key of each row, from its `Request.key_words`."""
  seed_B, high_B, low_B, sample_B = words_BC.astype(jnp.uint32).T
  return jnp.stack(threefry((seed_B, sample_B), (high_B, low_B)), axis=-1)


def threefry(key, counter):
  """Two random words per counter of two words: Threefry-2x32 with 20 rounds.

  Salmon et al. 2011, the generator of jax.random. JAX's own version on CPU is a
  loop over rounds without vector instructions and returns the xor of both
  words: it is seven times slower and would take a tenth of a decode step.
  """
  keys = (*key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
  a, b = counter[0] + keys[0], counter[1] + keys[1]
  for i in range(5):
    for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      a = a + b
      b = a ^ (b << turn | b >> (32 - turn))
    a, b = a + keys[(i + 1) % 3], b + keys[(i + 2) % 3] + jnp.uint32(i + 1)
  return a, b


class Choice(NamedTuple):
  """The next token of each row, with its log-probability.

  The log-probability is of the distribution that was sampled from: at the
  temperature, among the tokens that the filters keep; 0 if greedy. If the
  logits hold a NaN or +inf it is NaN, greedy or not, and the token is
  meaningless.
  """

  token_B: jax.Array
  logprob_B: jax.Array
  top_B1: jax.Array  # The largest logit.
  total_B: jax.Array  # The sum of exp(logit - top).

  def policy_logprob(self, logits_BV, token_B):
    """The log-probability of any token, without temperature and filters."""
    chosen_B1 = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)
    # Subtract the maximum first: a large common offset would cost digits.
    return (chosen_B1 - self.top_B1)[:, 0] - jnp.log(self.total_B)


def choose(
  logits_BV, keys_B2, position_B, settings: Settings, *, sample=None
) -> Choice:
  """Samples the next token of each row.

  sample: `logits_kernel.sample`, to use the kernel; by default, XLA's
    operations.
  """
  greedy_B = settings.temperature_B == 0
  temperature_B = jnp.where(greedy_B, 1.0, settings.temperature_B)
  top_B1 = logits_BV.max(-1, keepdims=True)

  def scale(logits_BX):
    # Subtract the maximum first, so that a low temperature cannot give +inf.
    return (logits_BX - top_B1) / temperature_B[:, None]

  border_B = border(lambda: scale(logits_BV), settings)
  # Gumbel-max sampling: a rounding error in the logits rarely changes the
  # token, unlike with a search in cumulative probabilities.
  if sample:
    rows = Rows(
      top_B1[:, 0], temperature_B, border_B,
      (~greedy_B).astype(jnp.int32), keys_B2, position_B,
    )  # fmt: skip
    token_B, kept_B, total_B = sample(
      logits_BV, rows, words=threefry, noise=_noise
    )
  else:
    kept_BV = _kept(scale(logits_BV), border_B)
    token_B = jax.lax.platform_dependent(
      kept_BV, keys_B2, position_B, greedy_B,
      cpu=_sample_with_stored_noise, default=_sample_in_pairs,
    )  # fmt: skip
    kept_B = jnp.sum(jnp.exp(kept_BV), axis=-1)
    total_B = jnp.sum(jnp.exp(logits_BV - top_B1), axis=-1)
  chosen_B1 = scale(jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1))
  logprob_B = chosen_B1[:, 0] - jnp.log(kept_B)
  is_sure_B = greedy_B & ~jnp.isnan(logprob_B)
  logprob_B = jnp.where(is_sure_B, 0.0, logprob_B)
  return Choice(token_B, logprob_B, top_B1, total_B)


def _sample_with_stored_noise(kept_BV, keys_B2, position_B, greedy_B):
  noise_BV = _gumbel(keys_B2, position_B, kept_BV.shape[-1])
  noise_BV = jnp.where(greedy_B[:, None], 0.0, noise_BV)
  return argmax(kept_BV + noise_BV)


def _sample_in_pairs(kept_BV, keys_B2, position_B, greedy_B):
  """`_sample_with_stored_noise` in a form that a GPU runs as one kernel.

  The kernel stores no noise. It takes two tokens at a time, because one call of
  `threefry` yields the random words of both.
  """
  V = kept_BV.shape[-1]
  words = _random_words(keys_B2, position_B, V)
  C = words[0].shape[-1]
  kept_BV = jnp.pad(kept_BV, ((0, 0), (0, 2 * C - V)), constant_values=-jnp.inf)
  first_BC, second_BC = (
    x_BC + jnp.where(greedy_B[:, None], 0.0, _noise(bits_BC))
    for x_BC, bits_BC in zip(jnp.split(kept_BV, 2, axis=-1), words, strict=True)
  )
  place_BC = jax.lax.broadcasted_iota(jnp.int32, first_BC.shape, 1)
  best = _larger((first_BC, place_BC), (second_BC, place_BC + C))
  nothing = jnp.float32(-jnp.inf), jnp.int32(2**31 - 1)
  _, token_B = jax.lax.reduce(best, nothing, _larger, (1,))
  return jnp.minimum(token_B, V - 1)


def _larger(a, b):
  """The larger of two (value, place); of equal values, the first."""
  is_b = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
  return jax.tree.map(functools.partial(jnp.where, is_b), b, a)


def border(scaled, settings: Settings):
  """The least logit of each row that top_k, top_p and min_p keep.

  scaled: a function that returns the logits, whose maximum is 0, in each row.
    Each filter calls it, so that XLA need not store what it can compute.
  """
  nothing_B = jnp.full_like(settings.top_p_B, -jnp.inf)  # Drops nothing.

  def most_probable():
    x_BV = scaled()

    def enough_tokens(border_B):
      count_B = jnp.sum(x_BV >= border_B[:, None], axis=-1)
      return count_B >= settings.top_k_B

    border_B = _largest_border(enough_tokens, x_BV)
    return jnp.where(settings.top_k_B > 0, border_B, nothing_B)

  def nucleus(border_B):
    x_BV = scaled()
    weights_BV = jnp.where(x_BV >= border_B[:, None], jnp.exp(x_BV), 0.0)
    # The slack: rounding must not reject tokens that sum to exactly top_p.
    wanted_B = settings.top_p_B * weights_BV.sum(-1) * (1 - 1e-6)

    def enough_weight(border_B):
      above_BV = jnp.where(x_BV >= border_B[:, None], weights_BV, 0.0)
      return above_BV.sum(-1) >= wanted_B

    border_B = _largest_border(enough_weight, x_BV)
    return jnp.where(settings.top_p_B < 1, border_B, nothing_B)

  # Each filter reads the logits 32 times, so it runs only if a row needs it.
  border_B = jax.lax.cond(
    (settings.top_k_B > 0).any(), most_probable, lambda: nothing_B
  )
  nucleus_B = jax.lax.cond(
    (settings.top_p_B < 1).any(), nucleus, lambda _: nothing_B, border_B
  )
  # min_p = 0 gives -inf, which drops nothing.
  likely_B = jnp.log(settings.min_p_B)
  return jnp.maximum(border_B, jnp.maximum(nucleus_B, likely_B))


def _kept(x_BV, border_B):
  """The logits, with -inf for those below the border."""
  # Comparisons with NaN are False. So a NaN among the logits is kept, and makes
  # the log-probability NaN.
  return jnp.where(x_BV < border_B[:, None], -jnp.inf, x_BV)


def _largest_border(is_low_enough, x_BV):
  """For each row, the largest float that is low enough, exact to the last bit.

  `is_low_enough` must be True up to some value and False above it.
  """

  def halve(_, bounds):
    low_B, high_B = bounds  # Low enough; too high.
    # The bounds are integers in the order of the floats: 32 steps find any.
    middle_B = (low_B & high_B) + ((low_B ^ high_B) >> 1)
    fits_B = is_low_enough(_float_of(middle_B))
    return jnp.where(fits_B, middle_B, low_B), jnp.where(
      fits_B, high_B, middle_B
    )

  low_B, high_B = _order_of(x_BV.min(-1)), _order_of(x_BV.max(-1)) + 1
  low_B, _ = jax.lax.fori_loop(0, 32, halve, (low_B, high_B))
  return _float_of(low_B)


def _order_of(x_B):
  """int32 values that compare as the floats do."""
  bits_B = jax.lax.bitcast_convert_type(x_B, jnp.int32)
  return jnp.where(bits_B < 0, bits_B ^ 0x7FFFFFFF, bits_B)


def _float_of(order_B):
  bits_B = jnp.where(order_B < 0, order_B ^ 0x7FFFFFFF, order_B)
  return jax.lax.bitcast_convert_type(bits_B, jnp.float32)


def _gumbel(keys_B2, position_B, V: int):
  """Gumbel noise, [B, V]."""
  # The tokens of a pair are half a vocabulary apart: if they were next to each
  # other, the code would not be vectorized.
  words = _random_words(keys_B2, position_B, V)
  noise_BV = jnp.concatenate([_noise(bits_BC) for bits_BC in words], -1)[:, :V]
  # Without the barrier, XLA recomputes the noise for each use, on a CPU even
  # without vector instructions.
  return jax.lax.optimization_barrier(noise_BV)


def _random_words(keys_B2, position_B, V: int):
  """Two arrays [B, V / 2]: one word for each token of a pair."""
  pair_1C = jnp.arange(-(-V // 2), dtype=jnp.uint32)[None]
  key = (keys_B2[:, :1], keys_B2[:, 1:])
  return threefry(key, (pair_1C, position_B[:, None].astype(jnp.uint32)))


def _noise(bits_BC):
  # Small uniform numbers give large noise, so they need a fine resolution.
  # jax.random.gumbel has steps of 2^-23. With them, a token of probability 1e-7
  # is sampled half as often as it should be, and a vocabulary may have 10^5
  # such tokens.
  steps_BC = (bits_BC >> 1).astype(jnp.int32).astype(jnp.float32)
  uniform_BC = jnp.minimum((steps_BC + 0.5) * 2.0**-31, 1 - 2.0**-24)
  return -jnp.log(-jnp.log1p(-uniform_BC))


def argmax(x_BV):
  """Index of the first maximum, by two reductions that vectorize on a CPU."""
  top_B1 = x_BV.max(-1, keepdims=True)
  V = x_BV.shape[-1]
  places_BV = jnp.where(x_BV == top_B1, jnp.arange(V, dtype=jnp.int32), V - 1)
  return places_BV.min(-1)
