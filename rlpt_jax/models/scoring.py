"""Log-probabilities of tokens under a model, for learning.

`in_groups` and `in_rows` give the same log-probabilities of completions, but
`in_groups` runs the model on a prompt once for its group, `in_rows` again in
every row, as most frameworks do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.models.config import Decoder
from rlpt_jax.models.moe import RouterStats


class Scored(NamedTuple):
  """The log-probability of each token, and the entropy of its distribution."""

  logprobs_BT: jax.Array
  entropies_BT: jax.Array
  router: RouterStats | None = None  # Of all tokens computed; None: no experts.


def in_groups(
  decoder: Decoder, params, prompts_PS, prompt_mask_PS, tokens_BT, mask_BT,
  *, temperature=1.0,
):  # fmt: skip
  """Scores the tokens of completions, B / P consecutive ones for each prompt.

  Prompts and completions are padded on the right; masks are 1 at tokens. Where
  `mask_BT` is 0, log-probabilities and entropies are meaningless.
  """
  P, _ = prompts_PS.shape
  G = tokens_BT.shape[0] // P
  prefix = decoder_lib.forward(
    decoder, params, prompts_PS, prompt_mask_PS.astype(jnp.int32), packed=False
  )
  # The last token predicts nothing but is kept: a length of, say, 8,191 would
  # fit no kernel, and XLA's attention, the fallback, holds all scores at once.
  rest = decoder_lib.forward(
    decoder, params, tokens_BT, mask_BT.astype(jnp.int32), (prefix.cache,)
  )
  # The last token of the prompt predicts the first of the completion.
  last_P = jnp.maximum(prompt_mask_PS.astype(jnp.int32).sum(1) - 1, 0)
  last_P1D = jnp.take_along_axis(
    prefix.hidden_BTD, last_P[:, None, None], axis=1
  )
  hidden_BTD = jnp.concatenate(
    [jnp.repeat(last_P1D, G, axis=0), rest.hidden_BTD[:, :-1]], axis=1
  )
  router = jax.tree.map(jnp.add, prefix.router, rest.router)
  return Scored(
    *head.score(
      decoder, params, hidden_BTD, tokens_BT, temperature=temperature
    ),
    router,
  )


def in_rows(
  decoder: Decoder, params, prompts_PS, prompt_mask_PS, tokens_BT, mask_BT,
  *, temperature=1.0,
):  # fmt: skip
  """Scores as `in_groups` does, but in rows [prompt | completion].

  Only the router's statistics differ: they count a prompt in every row.
  """
  P, S = prompts_PS.shape
  B, _ = tokens_BT.shape
  prompts_BS, prompt_mask_BS = (
    jnp.repeat(x, B // P, axis=0) for x in (prompts_PS, prompt_mask_PS)
  )
  # Right-align the prompts: padding between a prompt and its completion would
  # restart the positions.
  length_B1 = prompt_mask_BS.astype(jnp.int32).sum(1)[:, None]
  place_BS = jnp.arange(S)[None] - (S - length_B1)
  moved_BS = jnp.take_along_axis(prompts_BS, place_BS % S, axis=1)
  tokens_BX = jnp.concatenate([moved_BS, tokens_BT], axis=1)
  mask_BX = jnp.concatenate([place_BS >= 0, mask_BT > 0], axis=1)
  out = decoder_lib.forward(
    decoder, params, tokens_BX, mask_BX.astype(jnp.int32)
  )
  scores = head.score(
    decoder, params, out.hidden_BTD[:, S - 1 : -1], tokens_BT,
    temperature=temperature,
  )  # fmt: skip
  return Scored(*scores, out.router)


def in_packed_rows(decoder: Decoder, params, tokens_BT, segments_BT):
  """Scores each token of packed rows, given the earlier ones of its segment.

  Results are meaningless for the first token of each segment, and at padding.
  """
  out = decoder_lib.forward(decoder, params, tokens_BT, segments_BT)
  results = head.score(
    decoder, params, out.hidden_BTD[:, :-1], tokens_BT[:, 1:]
  )
  padded = (jnp.pad(x, ((0, 0), (1, 0))) for x in results)
  return Scored(*padded, out.router)
