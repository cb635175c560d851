"""The judges of a run: local models from a gin file, and remote ones.

  train_rl.Config.reward = @judge.ByProbability()
  judge.ByProbability.score = @judges.Weighing()
  judges.Weighing.model = 'models/Qwen2.5-7B-Instruct'

A local model has its own weights, tokenizer and layout, runs on the devices of
the run, and counts its compute. Call `load` before the policy's sampler is
created, since the sampler plans with the memory that is left. Without `load`,
the first question loads the model.
"""

import abc
import collections
import dataclasses
import logging
import math
from collections.abc import Collection
from typing import Literal

from rlpt_jax.core import checks, settings
from rlpt_jax.core.checks import Count, Name
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.inference import local_judge, model_files
from rlpt_jax.llm.remote import Remote
from rlpt_jax.models import flops
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.rewards import likelihood
from rlpt_jax.rewards.judge import ByAnswer
from rlpt_jax.rewards.scores import Reward, RewardFn
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.sampling.table import Sizes

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True, eq=False)
class LocalModel(abc.ABC):
  """The base class of models that rewards load and ask.

  model: a Hugging Face directory, a checkpoint directory, or random:NAME.
  tokenizer: 'bytes' or a path, instead of the model's own.
  chat: if True, questions use the model's chat template.
  max_prompt_tokens: a longer question gets no verdict.

  Reading ignores `chat` and `max_prompt_tokens`.
  """

  model: Name
  tokenizer: Name | None = None
  chat: bool = True
  layout: Axes = Axes(data=-1, fsdp=1)
  dtype: Literal['float32', 'bfloat16'] = 'bfloat16'
  max_prompt_tokens: Count = 2048
  spent: collections.Counter = dataclasses.field(
    init=False, default_factory=collections.Counter
  )
  _ask = _tokenizer = None

  def __post_init__(self):
    checks.check_fields(self)

  def check(self):
    """Raises for errors that can be found before the weights are loaded."""
    if self._tokenizer is None:
      files = model_files.find(self.model)
      self._tokenizer = files.load_tokenizer(self.tokenizer)

  def _check_chat(self):
    if self.chat:
      try:
        local_judge.question(self._tokenizer, 'Is it?', chat=True)
      except ValueError as error:
        raise ValueError(
          f'{error} If the judge is a base model without a template, set '
          f'judges.{type(self).__name__}.chat = False.'
        ) from error

  def load(self):
    """Loads the weights, unless they are loaded."""
    if self._ask is not None:
      return
    self.check()
    files, tokenizer = model_files.find(self.model), self._tokenizer
    decoder = Decoder(
      files.config, Compute(dtype=self.dtype), self.layout.layout()
    )
    params = files.load_params(layout=decoder.layout, dtype=self.dtype)

    def spend(read: int, written: int):
      self.spent['tokens'] += read + written
      self.spent['flops'] += flops.rollout(files.config, read, [written])

    self._ask = self._open(decoder, params, tokenizer, spend)

  def __call__(self, *questions):
    self.load()
    return self._ask(*questions)

  @abc.abstractmethod
  def _open(self, decoder, params, tokenizer, spend):
    """Returns the function that answers questions with the loaded model."""

  def close(self):
    """Frees the model; the next call loads it again."""
    self._ask = None


@dataclasses.dataclass(kw_only=True, eq=False)
class Answering(LocalModel):
  """A `Complete` for judge.ByAnswer: generates an answer as text."""

  slots: Count = 64
  max_new_tokens: Count = 16
  _sampler = None

  def check(self):
    super().check()
    self._check_chat()

  def _open(self, decoder, params, tokenizer, spend):
    plan = Plan(
      slots=decoder.layout.whole_batch(self.slots),
      group=1,
      max_prompt_tokens=self.max_prompt_tokens,
      max_new_tokens=self.max_new_tokens,
      sizes=Sizes(stops=max(1, len(tokenizer.eos_ids))),
    )
    self._sampler = Sampler(Engine(decoder, params, plan, consume=True))
    return local_judge.completer(
      self._sampler, tokenizer, chat=self.chat, spend=spend
    )

  def close(self):
    super().close()
    if self._sampler:
      self._sampler.close()


@dataclasses.dataclass(kw_only=True, eq=False)
class Weighing(LocalModel):
  """A `Score` for judge.ByProbability: gives log-probabilities of answers."""

  rows: Count = 16

  def check(self):
    super().check()
    self._check_chat()

  def _open(self, decoder, params, tokenizer, spend):
    return local_judge.scorer(
      decoder, params, tokenizer, chat=self.chat, rows=self.rows,
      max_prompt_tokens=self.max_prompt_tokens, spend=spend,
    )  # fmt: skip


@dataclasses.dataclass(kw_only=True, eq=False)
class Reading(LocalModel):
  """A `Logprob` for `by_likelihood`: log-probabilities of continuations."""

  rows: Count = 16

  def encode(self, text: str) -> list[int]:
    """Returns the tokens of a text, of the model's own tokenizer."""
    self.check()
    return self._tokenizer.encode(text)

  def _open(self, decoder, params, tokenizer, spend):
    return local_judge.reader(decoder, params, rows=self.rows, spend=spend)


def try_out(reward: RewardFn):
  """Checks the judges of a reward before anything is sampled.

  A judge behind a URL is asked a few short questions, in the way the run will
  ask. This waits for a judge that is down, warns if an answer has no verdict,
  and raises if no answer has one. Every host must call this; only one asks.
  """
  for part in settings.parts(reward):
    if isinstance(part, LocalModel):
      # On all hosts, since they wait for each other to find a model's files.
      part.check()
    elif isinstance(part, ByAnswer):
      on_one_host(_try_remote)(part)


def _try_remote(part: ByAnswer):
  verdicts = part.try_out()
  unread = [v for v in verdicts if math.isnan(v.reward)]
  if not unread:
    return
  remote = part.complete
  explained = explain_no_verdict(unread[0].reason, unread[0].answer)
  problem = (
    f'{remote.endpoint.address}: {len(unread)} of {len(verdicts)} trial '
    f'questions got no verdict. {explained}'
  )
  if len(unread) == len(verdicts):
    raise ValueError(f'{problem}. Nothing was sampled.')
  logger.warning('%s.', problem)


def by_likelihood(read: Reading, **options) -> Reward:
  """Returns the `likelihood` reward, computed by a frozen model.

  The model must have the policy's tokenizer.
  """
  return likelihood.Likelihood(read, encode=read.encode, **options)


def explain_no_verdict(reason: str, answer: str | None) -> str:
  """Says what the judge answered instead of a verdict, and how to fix it."""
  if 'judge/' not in reason:
    return 'The reward gave no verdict'
  if answer is None and reason.endswith('judge/neither'):
    return (
      "The judge finds neither 'Score: 0' nor 'Score: 1' probable: use a "
      'judge that follows instructions, with chat = False if it has no chat '
      'template'
    )
  if answer is None:
    return (
      'The judge did not answer: either its requests failed (timing.jsonl '
      'counts the causes under timing/judge/failed), or the question has more '
      'than max_prompt_tokens tokens'
    )
  text = ' '.join(answer.split())
  shown = repr(text if len(text) <= 120 else f'{text[:120]}...')
  fault = f"The judge answered {shown}, expected 'Score: 0' or 'Score: 1'"
  if not text or ('<think>' in text and '</think>' not in text):
    return (
      f'{fault}: it had no tokens left after thinking. Give it more '
      '(max_tokens in Endpoint.fields, or max_new_tokens) or turn its '
      'thinking off'
    )
  return (
    f'{fault}: use a judge that follows instructions, with chat = False if it '
    'has no chat template (a base model), or give it more tokens (max_tokens '
    'in Endpoint.fields, or max_new_tokens)'
  )


def local_models(reward: RewardFn) -> list[LocalModel]:
  """Returns the local judges of a reward."""
  return [x for x in settings.parts(reward) if isinstance(x, LocalModel)]


def on_all_hosts(reward: RewardFn) -> RewardFn:
  """Returns a reward that all hosts call; every host gets the same scores.

  The scores are those of the first host. The others compute nothing, unless
  there is a local judge, which runs on the devices of all hosts.
  """
  return on_one_host(reward, called_by_all=bool(local_models(reward)))


def load(reward: Reward):
  """Loads the local judges of a reward."""
  for judge in local_models(reward):
    judge.load()


def remotes(reward: Reward) -> list[Remote]:
  """Returns the judges of a reward that are behind a URL."""
  return [x for x in settings.parts(reward) if isinstance(x, Remote)]


def stop_waiting(reward: Reward):
  """Stops waiting for remote judges that are down; their calls raise at once.

  Called when the run is preempted.
  """
  for remote in remotes(reward):
    remote.stop_waiting()


def forget(reward: Reward, answers: Collection[str]):
  """Removes these answers from caches, so that the judges are asked again."""
  for remote in remotes(reward):
    if remote.cache and answers:
      remote.cache.forget(answers)


def counts(reward: Reward) -> dict[str, int]:
  """Returns what remote judges counted: {'timing/judge/requests': ..., ...}.

  If there are several, their numbers are added.
  """
  total = collections.Counter()
  for remote in remotes(reward):
    total.update(remote.counts)
  return {f'timing/judge/{name}': total[name] for name in sorted(total)}
