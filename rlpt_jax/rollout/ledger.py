"""Counts a run's compute, so that methods can be compared at equal compute."""

import itertools
from collections.abc import Mapping, Sequence

from rlpt_jax.inference.judges import LocalModel
from rlpt_jax.models import flops
from rlpt_jax.models.config import DecoderConfig
from rlpt_jax.rollout.experience import Role


class Ledger:
  """Counts tokens and FLOPs of sampling, judges, updates and the KL reference.

  FLOPs are those of models/flops.py, without padding. Only local judges are
  counted, since a server does not report its compute. In evaluations on
  held-out examples, only the judges are counted, and not the policy.
  """

  def __init__(
    self,
    model: DecoderConfig,
    totals: dict[str, int],
    *,
    remat: str,
    share_prompt: bool,
    has_reference: bool = False,
    judges: Sequence[LocalModel] = (),
  ):
    self._model, self._remat, self._judges = model, remat, judges
    self._share_prompt, self._has_reference = share_prompt, has_reference
    self.totals = dict(totals)

  def add(
    self, roles: Sequence[Role], scored: Sequence[int] = ()
  ) -> dict[str, float]:
    """Returns the compute of a step and of the run so far, as metrics.

    scored: the numbers of tokens of texts that the policy has scored before it
      sampled; they count as rollouts.
    """
    step = {
      'rollout_tokens': 0, 'update_tokens': 0, 'rollout_flops': 0,
      'update_flops': 0, **self._spent(),
    }  # fmt: skip
    if self._has_reference:
      step |= {'reference_tokens': 0, 'reference_flops': 0}
    for length in scored:
      step['rollout_tokens'] += length
      # The last token predicts nothing.
      step['rollout_flops'] += flops.forward(
        self._model, length - 1, read=length - 1
      )
    groups = itertools.chain.from_iterable(
      zip(
        role.judged.examples, role.judged.samples, role.learned_P.tolist(),
        strict=True,
      )
      for role in roles
    )  # fmt: skip
    for example, samples, is_learned in groups:
      prompt = len(example.prompt_tokens)
      lengths = [len(sample.completion.tokens) for sample in samples]
      step['rollout_tokens'] += prompt + sum(lengths)
      step['rollout_flops'] += flops.rollout(self._model, prompt, lengths)
      if is_learned:
        step['update_tokens'] += prompt + sum(lengths)
        step['update_flops'] += flops.update(
          self._model, prompt, lengths,
          remat=self._remat, share_prompt=self._share_prompt,
        )  # fmt: skip
      if is_learned and self._has_reference:
        step['reference_tokens'] += prompt + sum(lengths)
        step['reference_flops'] += flops.score(
          self._model, prompt, lengths, share_prompt=self._share_prompt
        )
    for name, value in step.items():
      self.totals[name] = self.totals.get(name, 0) + value
    return {f'compute/{name}': value for name, value in step.items()} | {
      f'compute/total_{name}': value for name, value in self.totals.items()
    }

  def add_held_out(self, metrics: Mapping[str, float]) -> dict[str, float]:
    """Adds what judges spent since `add`, on the step's held-out examples.

    Returns the step's judge metrics, with this included.

    metrics: those of the step, from `add`.
    """
    updated = {}
    for name, value in self._spent().items():
      self.totals[name] = self.totals.get(name, 0) + value
      updated[f'compute/{name}'] = metrics[f'compute/{name}'] + value
      updated[f'compute/total_{name}'] = self.totals[name]
    return updated

  def _spent(self) -> dict[str, int]:
    """Returns the compute of local judges since the last call."""
    spent = {'judge_tokens': 0, 'judge_flops': 0}
    for judge in self._judges:
      spent['judge_tokens'] += judge.spent['tokens']
      spent['judge_flops'] += judge.spent['flops']
      judge.spent.clear()
    return spent
