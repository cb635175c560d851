"""Microbatches of completions of similar length, without most of their padding.

Completions have very different lengths, but a batch pads all of them to the
longest. `arrange` puts those of similar length into the same microbatch, and
`shortened` computes a microbatch at the shortest of a few lengths that holds
its tokens in the loss. No result of a token depends on later ones, so this
changes results by rounding only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core.layout import Layout
from rlpt_jax.core.types import Batch


def halves(longest: int) -> list[int]:
  """Returns `longest`, its half, its quarter, ...

  Halving stops before a half that is below 16, or above 128 and no multiple of
  128, the block size of kernels.
  """
  half = longest // 2
  if longest % 2 or half < 16 or (half > 128 and half % 128):
    return [longest]
  return [longest, *halves(half)]


def shortened(function: Callable[[Any, Batch], Any], lengths: int) -> Callable:
  """Returns a function that computes `function(params, batch)` on fewer tokens.

  It cuts completions at the shortest length that holds all tokens in the loss,
  and fills up the arrays that `function` returns with zeros. Without a token in
  the loss, it returns zeros.

  lengths: the number of lengths to choose from, each half of the one before.
    All of them are compiled.
  """

  def of_batch(params, batch: Batch):
    whole = jax.eval_shape(function, params, batch)
    # The shortest first.
    some = halves(batch.mask_PGT.shape[-1])[:lengths][::-1]

    def zeros(params, batch):
      del params, batch
      return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), whole)

    def at(length):
      def branch(params, batch):
        found = function(params, _cut(batch, length))
        return jax.tree.map(lambda x, to: _filled(x, to.shape), found, whole)

      return branch

    needed = jnp.max(_lengths(batch.mask_PGT, jnp))
    index = jnp.sum(needed > jnp.array([0, *some[:-1]]))
    return jax.lax.switch(index, [zeros, *map(at, some)], params, batch)

  return of_batch


def _cut(batch: Batch, length: int) -> Batch:
  return jax.tree.map(lambda x: x[..., :length] if x.ndim == 3 else x, batch)


def _filled(x, shape):
  if x.shape == shape:
    return x
  return jnp.pad(
    x, [(0, to - size) for size, to in zip(x.shape, shape, strict=True)]
  )


def _lengths(mask_PGT, numpy):
  """[P, G]: the numbers of tokens up to the last one in the loss."""
  places_T = numpy.arange(1, mask_PGT.shape[-1] + 1)
  return numpy.max(numpy.where(mask_PGT, places_T, 0), axis=-1)


def samples_together(
  P: int, G: int, S: int, T: int,
  *, parts: int, lengths: int, layout: Layout, share_prompt: bool,
) -> int:  # fmt: skip
  """Returns how many completions of a group stay together with one prompt.

  A group often has one long completion, which would keep all others at its
  length. So groups are split, and each piece computes the prompt again. The
  pieces are as small as possible while prompts cost a microbatch no more tokens
  on a device than completions at the shortest length.

  P, G, S, T: the sizes of a batch.
  parts: its number of microbatches.
  """
  if lengths == 1 or parts == 1:
    return G  # Nothing can become shorter.
  if not share_prompt:
    return 1
  rows = P * G // parts

  def prompt_tokens(together):
    prompts = rows // together
    return S * prompts // layout.shares(prompts)

  shortest = halves(T)[:lengths][-1]
  most = max(prompt_tokens(G), shortest * rows // layout.shares(rows))
  return next(
    together
    for together in range(1, G + 1)
    if G % together == 0 and prompt_tokens(together) <= most
  )


def arrange(batch: Batch, *, parts: int, together: int) -> Batch:
  """Returns the batch with completions of similar length in a microbatch.

  The longest come first, so the last microbatches may have no token in the
  loss. A group becomes G / together ones with the same prompt, in which the
  completions keep their order.
  """
  P, G, _ = batch.mask_PGT.shape
  lengths_PG = _lengths(batch.mask_PGT, np)
  order_PG = np.argsort(-lengths_PG, axis=1, kind='stable')
  rows_PG = np.arange(P)[:, None] * G + order_PG
  rows_RG = np.sort(rows_PG.reshape(-1, together), axis=1)
  longest_R = lengths_PG.reshape(-1)[rows_RG].max(axis=1)
  # Microbatch m has the rows m, m + M, m + 2 M, ... (`learner.split`).
  places_R = np.arange(len(rows_RG)).reshape(-1, parts).T.ravel()
  ordered_RG = np.empty_like(rows_RG)
  ordered_RG[places_R] = rows_RG[np.argsort(-longest_R, kind='stable')]

  def of_completions(x):
    return x.reshape(P * G, *x.shape[2:])[ordered_RG]

  prompts_R = ordered_RG[:, 0] // G
  prompts = {
    name: getattr(batch, name)[prompts_R]
    for name in ('prompts_PS', 'prompt_mask_PS')
  }
  completions = {
    field.name: of_completions(x)
    for field in dataclasses.fields(batch)
    if field.name not in prompts
    and (x := getattr(batch, field.name)) is not None
  }
  return dataclasses.replace(batch, **prompts, **completions)
