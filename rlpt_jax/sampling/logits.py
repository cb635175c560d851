"""From logits to a token of each row, and how likely it was.

Every row has its own settings and its own random numbers, and nothing here
looks at another row. Filters are thresholds found by bisection, which needs no
sort: that is slow everywhere, and a gather where the vocabulary is split.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settings:
  """Of `requests.Request`, for every row."""

  temperature_B: jax.Array
  top_k_B: jax.Array
  top_p_B: jax.Array
  min_p_B: jax.Array


def row_keys(words_BC):
  """[B] keys from the words of `Request.key_words`."""
  # By name: with the default that some set on TPUs, a row's numbers depend on
  # the rows beside it.
  new_key = functools.partial(jax.random.key, impl='threefry2x32')
  keys_B = jax.vmap(new_key)(words_BC[:, 0])
  for i in range(1, words_BC.shape[1]):
    keys_B = jax.vmap(jax.random.fold_in)(keys_B, words_BC[:, i])
  return keys_B


def choose(logits_BV, keys_B, position_B, settings: Settings):
  """(a token of each row, its log-probability).

  Of the distribution that was sampled from: at the temperature and among the
  tokens that the filters leave; 0 where greedy. Of logits that hold a NaN or
  +inf it is NaN, greedy or not, and the token means nothing.
  """
  greedy_B = settings.temperature_B == 0
  temperature_B1 = jnp.where(greedy_B, 1.0, settings.temperature_B)[:, None]
  # From the top down: no temperature makes infinities of finite logits.
  scaled_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature_B1
  kept_BV = keep_probable(scaled_BV, settings)
  # The largest sum of logit and Gumbel noise falls on a token with its
  # probability. Compared with a search in cumulated probabilities, a rounding
  # error in the logits changes the token as rarely as can be.
  noise_BV = _gumbel(jax.vmap(jax.random.fold_in)(keys_B, position_B), kept_BV)
  noise_BV = jnp.where(greedy_B[:, None], 0.0, noise_BV)
  token_B = argmax(kept_BV + noise_BV)
  logprob_B = logprob(kept_BV, token_B)
  is_sure_B = greedy_B & ~jnp.isnan(logprob_B)
  return token_B, jnp.where(is_sure_B, 0.0, logprob_B)


def keep_probable(x_BV, settings: Settings):
  """The logits with -inf for those that top_k, top_p or min_p drop."""
  top_B = x_BV.max(-1)
  nothing_B = jnp.full_like(top_B, -jnp.inf)  # The border that drops nothing.

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
    # A border at top_p of the whole, where rounding must not lose the last.
    wanted_B = settings.top_p_B * weights_BV.sum(-1) * (1 - 1e-6)

    def enough_weight(border_B):
      above_BV = jnp.where(x_BV >= border_B[:, None], weights_BV, 0.0)
      return above_BV.sum(-1) >= wanted_B

    border_B = _largest_border(enough_weight, x_BV)
    return jnp.where(settings.top_p_B < 1, border_B, nothing_B)

  # Each only where a row asks for it: they read the logits 32 times.
  border_B = jax.lax.cond(
    (settings.top_k_B > 0).any(), most_probable, lambda: nothing_B
  )
  nucleus_B = jax.lax.cond(
    (settings.top_p_B < 1).any(), nucleus, lambda _: nothing_B, border_B
  )
  # Of log(0) nothing is dropped.
  likely_B = top_B + jnp.log(settings.min_p_B)
  border_B = jnp.maximum(border_B, jnp.maximum(nucleus_B, likely_B))
  # A NaN stays, on whichever side, to be seen in the log-probability.
  return jnp.where(x_BV < border_B[:, None], -jnp.inf, x_BV)


def _largest_border(is_low_enough, x_BV):
  """The largest value of each row, to the last bit, that is low enough.

  `is_low_enough` holds below some value and not above it.
  """

  def halve(_, bounds):
    low_B, high_B = bounds  # Low enough, and too high.
    # As integers, floats lie in order: 32 steps find any of them.
    middle_B = (low_B & high_B) + ((low_B ^ high_B) >> 1)
    fits_B = is_low_enough(_float_of(middle_B))
    return jnp.where(fits_B, middle_B, low_B), jnp.where(
      fits_B, high_B, middle_B
    )

  low_B, high_B = _order_of(x_BV.min(-1)), _order_of(x_BV.max(-1)) + 1
  low_B, _ = jax.lax.fori_loop(0, 32, halve, (low_B, high_B))
  return _float_of(low_B)


def _order_of(x_B):
  """int32 that compare as the floats do."""
  bits_B = jax.lax.bitcast_convert_type(x_B, jnp.int32)
  return jnp.where(bits_B < 0, bits_B ^ 0x7FFFFFFF, bits_B)


def _float_of(order_B):
  bits_B = jnp.where(order_B < 0, order_B ^ 0x7FFFFFFF, order_B)
  return jax.lax.bitcast_convert_type(bits_B, jnp.float32)


def _gumbel(keys_B, like_BV):
  V = like_BV.shape[-1]
  bits_BV = jax.vmap(lambda key: jax.random.bits(key, (V,)))(keys_B)
  # Where uniform numbers are small the noise is large, and there they must be
  # fine: jax.random.gumbel has steps of 2^-23 for them, which halves what a
  # token of probability 1e-7 gets, and there are 10^5 of those.
  steps_BV = (bits_BV >> 1).astype(jnp.int32).astype(jnp.float32)
  uniform_BV = jnp.minimum((steps_BV + 0.5) * 2.0**-31, 1 - 2.0**-24)
  noise_BV = -jnp.log(-jnp.log1p(-uniform_BV))
  # Made once: what reads it would otherwise make it again for each reader,
  # and on a CPU without vector instructions.
  return jax.lax.optimization_barrier(noise_BV)


def argmax(x_BV):
  """The first of the largest, by two reductions that a CPU does in vectors."""
  top_B1 = x_BV.max(-1, keepdims=True)
  V = x_BV.shape[-1]
  places_BV = jnp.where(x_BV == top_B1, jnp.arange(V, dtype=jnp.int32), V - 1)
  return places_BV.min(-1)


def logprob(x_BV, token_B):
  """Of a token of each row, given its logits."""
  top_B1 = x_BV.max(-1, keepdims=True)
  chosen_B1 = jnp.take_along_axis(x_BV, token_B[:, None], axis=-1) - top_B1
  # From the top down, or what the logits have in common costs digits.
  return chosen_B1[:, 0] - jnp.log(jnp.sum(jnp.exp(x_BV - top_B1), axis=-1))
