"""Samples a token for each row from its logits, with its log-probability.

Each row has its own settings and random numbers, and no row depends on another.
Filters find their thresholds by bisection instead of sorting, which is slow
everywhere and needs a gather if the vocabulary is sharded.
"""

import jax
import jax.numpy as jnp
from flax import struct


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


def choose(logits_BV, keys_B2, position_B, settings: Settings):
  """(the next token of each row, its log-probability).

  The log-probability is of the distribution that was sampled from: at the
  temperature, among the tokens that the filters keep; 0 if greedy. If the
  logits hold a NaN or +inf it is NaN, greedy or not, and the token is
  meaningless.
  """
  greedy_B = settings.temperature_B == 0
  temperature_B1 = jnp.where(greedy_B, 1.0, settings.temperature_B)[:, None]
  # Subtract the maximum first, so that a low temperature cannot give +inf.
  scaled_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature_B1
  kept_BV = keep_probable(scaled_BV, settings)
  # Gumbel-max sampling: a rounding error in the logits rarely changes the
  # token, unlike with a search in cumulative probabilities.
  noise_BV = _gumbel(keys_B2, position_B, kept_BV.shape[-1])
  noise_BV = jnp.where(greedy_B[:, None], 0.0, noise_BV)
  token_B = argmax(kept_BV + noise_BV)
  logprob_B = logprob(kept_BV, token_B)
  is_sure_B = greedy_B & ~jnp.isnan(logprob_B)
  return token_B, jnp.where(is_sure_B, 0.0, logprob_B)


def keep_probable(x_BV, settings: Settings):
  """The logits, with -inf for tokens that top_k, top_p or min_p drop."""
  top_B = x_BV.max(-1)
  nothing_B = jnp.full_like(top_B, -jnp.inf)  # This border drops nothing.

  def most_probable():
    def enough_tokens(border_B):
      count_B = jnp.sum(x_BV >= border_B[:, None], axis=-1)
      return count_B >= settings.top_k_B

    border_B = _largest_border(enough_tokens, x_BV)
    return jnp.where(settings.top_k_B > 0, border_B, nothing_B)

  def nucleus(border_B):
    weights_BV = jnp.where(
      x_BV >= border_B[:, None], jnp.exp(x_BV - top_B[:, None]), 0.0
    )
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
  likely_B = top_B + jnp.log(settings.min_p_B)
  border_B = jnp.maximum(border_B, jnp.maximum(nucleus_B, likely_B))
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
  """Gumbel noise, [B, V]; each counter, (pair, position), serves two tokens."""
  pair_1C = jnp.arange(-(-V // 2), dtype=jnp.uint32)[None]
  key = (keys_B2[:, :1], keys_B2[:, 1:])
  words = threefry(key, (pair_1C, position_B[:, None].astype(jnp.uint32)))

  def noise(bits_BC):
    # Small uniform numbers give large noise, so they need a fine resolution.
    # jax.random.gumbel has steps of 2^-23. With them, a token of probability
    # 1e-7 is sampled half as often as it should be, and a vocabulary may have
    # 10^5 such tokens.
    steps_BC = (bits_BC >> 1).astype(jnp.int32).astype(jnp.float32)
    uniform_BC = jnp.minimum((steps_BC + 0.5) * 2.0**-31, 1 - 2.0**-24)
    return -jnp.log(-jnp.log1p(-uniform_BC))

  # The tokens of a pair are half a vocabulary apart: if they were next to each
  # other, the code would not be vectorized.
  noise_BV = jnp.concatenate([noise(bits_BC) for bits_BC in words], -1)[:, :V]
  # Without the barrier, XLA recomputes the noise for each use, on a CPU even
  # without vector instructions.
  return jax.lax.optimization_barrier(noise_BV)


def argmax(x_BV):
  """Index of the first maximum, by two reductions that vectorize on a CPU."""
  top_B1 = x_BV.max(-1, keepdims=True)
  V = x_BV.shape[-1]
  places_BV = jnp.where(x_BV == top_B1, jnp.arange(V, dtype=jnp.int32), V - 1)
  return places_BV.min(-1)


def logprob(x_BV, token_B):
  """The log-probability of one token per row, given the logits."""
  top_B1 = x_BV.max(-1, keepdims=True)
  chosen_B1 = jnp.take_along_axis(x_BV, token_B[:, None], axis=-1) - top_B1
  # Subtract the maximum first: a large common offset would cost digits.
  return chosen_B1[:, 0] - jnp.log(jnp.sum(jnp.exp(x_BV - top_B1), axis=-1))
