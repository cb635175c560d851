"""Entropies of a policy at each token of texts that nobody has sampled."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from rlpt_jax.core.timers import Timers
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.data import packing
from rlpt_jax.models import scoring
from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling.decode import bucket
from rlpt_jax.sampling.engine import nan_error
from rlpt_jax.sampling.sampler import Sampler

# Tokens that are computed at once, with padding: enough to keep a device busy,
# and few beside those of an update, which takes more memory.
TOKENS = 8192


class Entropies:
  """Entropies of some texts, under the weights of a sampler.

  The first look at any text computes the entropies of all. Without a look,
  nothing is computed.
  """

  def __init__(
    self,
    sampler: Sampler,
    tokenizer: Tokenizer,
    timers: Timers,
    texts: Sequence[Sequence[int]],
  ):
    self._sampler, self._timers = sampler, timers
    # As in prompts, a text begins with the BOS token, if there is one.
    self._begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    self._texts = [[*self._begin, *text] for text in texts]
    self._found: list[np.ndarray] | None = None

  def look(self, i: int) -> np.ndarray:
    """Returns the entropy, in nats, at each token of text i.

    It is that of the policy's distribution, given the earlier tokens. It is NaN
    at the first token.
    """
    if self._found is None:
      with self._timers('rollout'):
        self._found = self._compute()
    return self._found[i]

  @property
  def computed(self) -> list[int]:
    """The numbers of tokens of all texts; [] if nobody has looked."""
    return [] if self._found is None else [*map(len, self._texts)]

  def _compute(self) -> list[np.ndarray]:
    sampler = self._sampler
    found = compute(
      sampler.decoder, sampler.params, self._texts,
      # Of equal length at every step, so that one program is compiled: a text
      # fits in a prompt.
      row_tokens=sampler.plan.prefix_length,
    )  # fmt: skip
    if any(np.isnan(entropies[1:]).any() for entropies in found):
      raise nan_error(
        'entropies', f'weights of version {sampler.version}',
        sampler.decoder.compute.dtype,
      )  # fmt: skip
    found = [entropies[len(self._begin) :] for entropies in found]
    for entropies in found:
      entropies[:1] = np.nan
    return found


def compute(
  decoder: Decoder,
  params,
  texts: Sequence[Sequence[int]],
  *,
  row_tokens: int,
) -> list[np.ndarray]:
  """Returns the entropy at each token of each text; NaN at the first.

  params: from `publish.publish`.
  row_tokens: the length of the rows that texts are packed into, if none of them
    is longer.
  """
  T = max(row_tokens, bucket(max(map(len, texts))))
  B = decoder.layout.whole_batch(max(1, TOKENS // T))
  packed = packing.pack([*map(len, texts)], T)
  found = {}
  for first in range(0, len(packed), B):
    some = packed[first : first + B]
    padding = [[] for _ in range(B - len(some))]
    rows = packing.rows(
      [[(texts[i], 0) for i in row] for row in some] + padding, T, pad_id=0
    )
    on_devices = (
      decoder.layout.put(x, 'batch', None)
      for x in (rows.tokens_BT, rows.segments_BT)
    )
    entropies_BT = np.asarray(_in_rows(decoder, params, *on_devices))
    for b, row in enumerate(some):
      for number, i in enumerate(row, start=1):
        found[i] = entropies_BT[b, rows.segments_BT[b] == number]
        found[i][0] = np.nan
  return [found[i] for i in range(len(texts))]


@functools.partial(jax.jit, static_argnames='decoder')
def _in_rows(decoder: Decoder, params, tokens_BT, segments_BT):
  """[B, T]: the entropy at each token of packed rows, on every host."""
  scored = scoring.in_packed_rows(decoder, params, tokens_BT, segments_BT)
  # Every host chooses, and must choose the same.
  replicated = decoder.layout.replicated()
  return jax.lax.with_sharding_constraint(scored.entropies_BT, replicated)
