"""The static sampler: a batch of groups, from prompts to the last completion.

A group's prompt is read once: its cache is a context that the rollouts share,
beside the cache of their own tokens.
"""

import functools

import jax
import jax.numpy as jnp

from rlpt_jax.core.types import Rollouts
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.models.config import Decoder


def sample_keys(seed, prompt_ids_P, group: int):
  """[B] keys: a sample's tokens follow from (seed, prompt, index) alone."""
  key = jax.random.key(seed)
  keys_P = jax.vmap(jax.random.fold_in, (None, 0))(key, prompt_ids_P)
  fold_samples = jax.vmap(jax.random.fold_in, (None, 0))
  keys_PG = jax.vmap(fold_samples, (0, None))(keys_P, jnp.arange(group))
  return keys_PG.reshape(-1)


@functools.partial(
  jax.jit, static_argnames=('decoder', 'max_new_tokens', 'eos_ids')
)
def sample(
  decoder: Decoder,
  params,
  prompts_PS,
  segments_PS,
  keys_B,
  temperature,
  *,
  max_new_tokens: int,
  eos_ids: tuple[int, ...],
) -> Rollouts:
  """G = B / P completions of each prompt; temperature 0 is greedy.

  A greedy completion's log-probabilities are those at temperature 1.
  """
  B, T = keys_B.shape[0], max_new_tokens
  G = B // prompts_PS.shape[0]
  prefix, logits_PV = _prefill(decoder, params, prompts_PS, segments_PS)
  own = cache_lib.empty(
    decoder.config, B, T, dtype=prefix.k_LBKSH.dtype, layout=decoder.layout
  )
  one_token_B1 = jnp.ones((B, 1), jnp.int32)

  def unfinished(carry):
    t, _, _, rollouts = carry
    return (t < T) & ~rollouts.stopped_B.all()

  def step(carry):
    t, logits_BV, own, r = carry
    token_B, logprob_B = _choose(logits_BV, keys_B, t, temperature)
    active_B = ~r.stopped_B
    r = Rollouts(
      tokens_BT=r.tokens_BT.at[:, t].set(jnp.where(active_B, token_B, 0)),
      logprobs_BT=r.logprobs_BT.at[:, t].set(jnp.where(active_B, logprob_B, 0)),
      length_B=r.length_B + active_B,
      stopped_B=r.stopped_B
      | jnp.isin(token_B, jnp.asarray(eos_ids, jnp.int32)),
    )
    out = decoder_lib.forward(
      decoder, params, token_B[:, None], one_token_B1, (prefix, own)
    )
    logits_BV = head.logits(decoder, params, out.hidden_BTD)[:, 0]
    return t + 1, logits_BV, cache_lib.write(own, out.cache, t), r

  empty = Rollouts(
    tokens_BT=jnp.zeros((B, T), jnp.int32),
    logprobs_BT=jnp.zeros((B, T), jnp.float32),
    length_B=jnp.zeros((B,), jnp.int32),
    stopped_B=jnp.zeros((B,), bool),
  )
  logits_BV = jnp.repeat(logits_PV, G, axis=0)
  carry = jax.lax.while_loop(unfinished, step, (0, logits_BV, own, empty))
  return carry[-1]


def _prefill(decoder: Decoder, params, prompts_PS, segments_PS):
  """(cache of the prompts, logits of the token after each)."""
  out = decoder_lib.forward(decoder, params, prompts_PS, segments_PS)
  S = prompts_PS.shape[1]
  last_P = (S - 1) - jnp.argmax(segments_PS[:, ::-1] > 0, axis=1)
  hidden_P1D = jnp.take_along_axis(
    out.hidden_BTD, last_P[:, None, None], axis=1
  )
  return out.cache, head.logits(decoder, params, hidden_P1D)[:, 0]


def _choose(logits_BV, keys_B, t, temperature):
  """(a token of each row, its log-probability)."""
  greedy = temperature == 0
  scaled_BV = logits_BV / jnp.where(greedy, 1.0, temperature)
  step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, t)
  drawn_B = jax.vmap(jax.random.categorical)(step_keys_B, scaled_BV)
  token_B = jnp.where(greedy, jnp.argmax(logits_BV, axis=-1), drawn_B)
  logprobs_BV = jax.nn.log_softmax(scaled_BV)
  chosen_B1 = jnp.take_along_axis(logprobs_BV, token_B[:, None], axis=1)
  return token_B.astype(jnp.int32), chosen_B1[:, 0]
