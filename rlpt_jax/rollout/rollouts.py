"""Samples the policy on examples and asks for the rewards of its samples."""

import pathlib
from collections.abc import Iterable, Sequence

import jax

from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.core.timers import Timers
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.inference import judges
from rlpt_jax.rewards.scores import Reward, ask
from rlpt_jax.rollout import unjudged
from rlpt_jax.rollout.entropies import Entropies
from rlpt_jax.rollout.judged import Judged, joined
from rlpt_jax.rollout.judging import Judging, Question
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.sampling.sampler import Sample, SampleGroup, Sampler


class Rollouts:
  """Samples completions and asks for their rewards.

  It keeps the samples until their step is done, so nothing is lost if the
  reward fails: the run saves the kept samples, and those of a stream, and its
  next start does not sample them again. Kept samples are used only if they come
  from the newest weights; otherwise their examples are sampled again.
  """

  def __init__(
    self,
    sampler: Sampler,
    tokenizer: Tokenizer,
    reward: Reward,
    timers: Timers,
    *,
    seed: int,
  ):
    self.tokenizer, self.reward = tokenizer, reward
    self.sampler, self.timers, self.seed = sampler, timers, seed
    self._ask = judges.on_all_hosts(reward)
    # Other rewards take no time to speak of, or the devices of the sampler.
    is_elsewhere = judges.remotes(reward) and not judges.local_models(reward)
    self._judging = None
    if is_elsewhere and jax.process_count() == 1:
      self._judging = Judging(reward)
    self._kept: dict[str, Sequence] = {}  # Name -> samples.

  @property
  def version(self) -> int:
    """The version of the sampler's weights."""
    return self.sampler.version

  def __call__(
    self,
    sampling: Sampling,
    examples: Sequence[Example],
    names: Sequence[str],
    *,
    timer: str | None = None,
  ) -> Judged:
    """Samples the policy on examples, and scores the samples.

    names: one per example; it seeds the samples, together with the run's seed.
    timer: measures sampling and scoring together; by default, the timer
      'rollout' measures sampling, and the timer 'reward' measures scoring.
    """
    groups = self.sample(
      sampling, examples, names, timer=timer or 'rollout', are_judged=True
    )
    return self.judge(examples, names, groups, timer=timer or 'reward')

  def judge_soon(self, example: Example, name: str, group: Sequence[Sample]):
    """Asks a judge behind a URL, while this process goes on sampling."""
    if self._judging:
      texts = [sample.text for sample in group]
      self._judging.submit(Question(name, example, texts))

  def judge(
    self,
    examples: Sequence[Example],
    names: Sequence[str],
    groups: Sequence[Sequence[Sample]],
    *,
    timer: str = 'reward',
  ) -> Judged:
    """Scores samples of the policy."""
    with self.timers(timer):
      if self._judging and examples:
        for each in zip(examples, names, groups, strict=True):
          self.judge_soon(*each)
        scores = joined(self._judging.take(names))
      else:
        texts = [[sample.text for sample in group] for group in groups]
        scores = ask(self._ask, examples, texts)
    return Judged(examples, groups, scores, scores.rewards_PG)

  def sample(
    self,
    sampling: Sampling,
    examples: Sequence[Example],
    names: Sequence[str],
    *,
    timer: str = 'rollout',
    are_judged: bool = False,
  ) -> list[Sequence[Sample]]:
    """Samples the policy on examples, without a reward; arguments as above.

    are_judged: True if `judge` will score the samples, which may begin now.
    """
    of_name = dict(zip(names, examples, strict=True))
    requests = [
      sampling.request(example, name, self.tokenizer, self.seed)
      for example, name in zip(examples, names, strict=True)
      if not self._is_current(name)
    ]
    with self.timers(timer):
      groups = self.sampler.complete(
        requests, self.tokenizer, stop=sampling.stop
      )
      for request, group in zip(requests, groups, strict=True):
        self._kept[request.id] = group
        if are_judged:
          self.judge_soon(of_name[request.id], request.id, group)
    return [self._kept[name] for name in names]

  def group(
    self, sampling: Sampling, example: Example, name: str
  ) -> SampleGroup:
    """Returns the samples of an example, which have not entered the sampler."""
    return sampling.group(example, name, self.tokenizer, self.seed)

  def entropies(self, texts: Sequence[Sequence[int]]) -> Entropies:
    """Returns the entropies of the newest weights at each token of the texts.

    They are computed when they are looked at, in the time of 'rollout'.
    """
    return Entropies(self.sampler, self.tokenizer, self.timers, texts)

  def _is_current(self, name: str) -> bool:
    """Returns True if samples of the newest weights are kept for this name."""
    group = self._kept.get(name)
    return group is not None and all(
      sample.completion.prompt_version == self.version for sample in group
    )

  def forget(self, names: Iterable[str]):
    """Drops the samples of these names; call it once their step is done."""
    for name in names:
      self._kept.pop(name, None)

  def stop_waiting(self):
    """Stops waiting for judges that are down; called by signal handlers."""
    judges.stop_waiting(self.reward)

  def load(self, workdir: pathlib.Path, step: int):
    """Loads the samples that an earlier start saved for this step."""
    read = on_one_host(unjudged.read)
    self._kept |= read(workdir, step, self.version)

  def save(self, workdir: pathlib.Path, step: int, record=None, stream=None):
    """Saves the samples of the newest weights, for the run's next start.

    record, stream: those of the run's source (`stream.Source.resume`).
    """
    current = {
      name: group
      for name, group in self._kept.items()
      if self._is_current(name)
    }
    unjudged.write(workdir, step, current, record, stream)
