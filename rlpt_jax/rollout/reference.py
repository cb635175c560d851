"""The reference policy that a run began with, and KL penalties against it."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.algorithms import kl, reductions
from rlpt_jax.core.layout import Layout
from rlpt_jax.core.types import Batch
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.collect import Groups
from rlpt_jax.training.experience import make_batch
from rlpt_jax.training.learner import join, num_rows, split


class Reference:
  """A frozen model that computes log-probabilities of completions."""

  def __init__(
    self,
    params,
    score,
    layout: Layout,
    *,
    prompts: int,
    shorten: Callable[[Callable], Callable] | None = None,
  ):
    """Sets the parts.

    score: a `Score` of algorithms/policy.py, at the sampling temperature.
    prompts: the number of prompts of a batch that `penalized` computes at once.
    shorten: as for `learner.make_update`.
    """

    def of_part(params, batch: Batch):
      shape = batch.tokens_PGT.shape
      tokens_BT = batch.tokens_PGT.reshape(-1, shape[-1])
      present_BT = batch.present_PGT.reshape(-1, shape[-1])
      logprobs_BT, *_ = score(
        params, batch.prompts_PS, batch.prompt_mask_PS, tokens_BT, present_BT
      )
      return logprobs_BT.reshape(shape)

    compute = shorten(of_part) if shorten else of_part

    def logprobs(params, batch: Batch, num_parts: int):
      parts = jax.tree.map(functools.partial(split, M=num_parts), batch)
      logprobs = jax.lax.map(lambda part: compute(params, part), parts)
      return join(logprobs)

    def sums(params, batch: Batch):
      M = max(1, num_rows(batch) // prompts)
      k1_PGT = kl.k1(
        batch.behavior_PGT, logprobs(params, batch, M), batch.mask_PGT
      )
      return jnp.sum(k1_PGT, axis=-1)

    self._params, self._layout = params, layout
    self._logprobs = jax.jit(logprobs, static_argnames='num_parts')
    # Every host gets all sums, since it computes the whole batch's advantages.
    self._sums = jax.jit(sums, out_shardings=layout.replicated())

  def with_logprobs(self, batch: Batch, num_parts: int) -> Batch:
    """Returns the batch with the reference's log-probabilities.

    num_parts: the number of microbatches that are computed one by one.
    """
    reference_PGT = self._logprobs(self._params, batch, num_parts=num_parts)
    return dataclasses.replace(batch, reference_PGT=reference_PGT)

  def penalized(
    self,
    groups: Groups,
    *,
    weight: float,
    num_prompts: int,
    longest: tuple[int, int],
  ) -> Groups:
    """Subtracts from each reward `weight` times the sum of k1 over the tokens.

    k1 is log(policy / reference). This is the KL penalty of RLHF with PPO
    (arXiv 2402.03300, Eq 2, subtracts the same sum token by token). The sum
    uses the sampler's log-probabilities, and only the tokens that the policy
    sampled. `scores` keeps the rewards without the penalty and gets a part
    'kl': the amount added to each reward, which is at most 0 in expectation. A
    completion whose sum is not finite is excluded from the loss.

    num_prompts, longest: the sizes of a training batch. The sums are computed
      in batches of these sizes too, because then shapes rarely change and few
      programs are compiled.
    """
    judged = groups.judged
    P = len(judged.examples)
    sums_PG = np.concatenate(
      [
        self._k1(
          judged,
          range(first, min(first + num_prompts, P)),
          num_prompts,
          longest,
        )
        for first in range(0, P, num_prompts)
      ]
    )
    # A sum is infinite if the reference gives probability 0 to a token. Such a
    # completion is left out, or else mean rewards would be infinite too.
    known_PG = ~np.isnan(judged.rewards_PG) & np.isfinite(sums_PG)
    added_PG = np.where(known_PG, -weight * sums_PG, np.nan).astype(np.float32)
    part = Scores(added_PG, np.where(known_PG, 'k1', 'left out'))
    scores = dataclasses.replace(
      judged.scores, parts={**judged.scores.parts, 'kl': part}
    )
    judged = dataclasses.replace(
      judged, scores=scores, rewards_PG=judged.rewards_PG + added_PG
    )
    return dataclasses.replace(groups, judged=judged)

  def _k1(self, judged, some: range, num_prompts: int, longest) -> np.ndarray:
    """[P, G]: sums of k1 for some groups; 0 for completions not in the loss."""
    batch = make_batch(
      [judged.group(p) for p in some],
      num_prompts=num_prompts,
      reduction=reductions.token_mean,
      longest=longest,
    )
    sums_PG = self._sums(self._params, put(self._layout, batch))
    return np.asarray(sums_PG)[: len(some)]


def put(layout: Layout, batch: Batch) -> Batch:
  """Puts the batch on the devices, sharded by prompt."""
  return jax.tree.map(
    lambda x: layout.put(x, 'batch', *[None] * (x.ndim - 1)), batch
  )
