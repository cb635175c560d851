"""PretrainZero's game: the policy hides a span, and then predicts it.

In a step, the policy reads `count` paragraphs. As the chooser, it chooses G
spans to hide in each. As the predictor, the first role, it predicts each
usable span G times; equal spans only once. A prediction earns 1 if it is right.
A span earns 1 - the mean of its predictions, but nothing if none of them is
right (2512.03442, equations 6 to 11). One update learns from both roles.

All spans of a step are predicted in the same step. So spans and predictions
come from the same weights, and if a schedule samples ahead, both are behind by
the same number of updates.

With a `choose` of data/masks.py, spans are chosen by chance and the policy only
predicts: the paper's baselines. With `random_steps`, spans are chosen by chance
in the first steps of a run; then the batch of the chooser is empty.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Natural
from rlpt_jax.core.types import Example
from rlpt_jax.data import mask_tasks, masks
from rlpt_jax.data.masks import Choose, Hide, Locate, Mask, Paragraph, Rule
from rlpt_jax.rewards import extract
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.collect import Groups, Refill
from rlpt_jax.rollout.collector import Collector, Parts
from rlpt_jax.rollout.experience import Collected, Experience
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.spans import Choice, metrics
from rlpt_jax.sampling.sampler import Sample

# What is expected instead of settings that do not fit.
PROBLEMS = {
  'max_pass_rate': 'None with game.Game, which leaves out no paragraphs',
  'router_balance': '0 with two roles, whose parts are not equally full',
  'collect': 'keep or drop with game.Game: spans cannot be chosen again',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game(Collector):
  """The policy hides spans of paragraphs, and predicts what it has hidden.

  The data are those of mask_tasks.ChooseSpan. The reward is that of a
  prediction, such as TextMatch(exact, find=extract.boxed). Config.collect, keep
  or drop, decides which groups of predictions are in the loss; all spans are,
  as the paper filters by accuracy, which only predictions have.

  choose: chooses spans by chance (data/masks.py); by default, the policy does.
  random_steps: the number of first steps in which `random_choose` chooses the
    spans, not the policy: 100 of 2,000 for the paper's SmolLM3.
  find: finds the span in a completion.
  locate: finds the place in the paragraph that is meant; by default, the same
    text.
  rules: decide which spans are usable.
  hide: hides a span in its paragraph.
  task: makes the prompts of predictions. A span whose prompt exceeds its
    max_prompt_tokens is not usable. Its other settings are for data.
  unusable: the reward of a completion without a usable span, which the paper
    does not state. With 0, it earns no less than a span that nobody predicts.
  predictions: how to sample predictions; by default, like spans.
  """

  varies = True
  streams = False

  choose: Choose | None = None
  random_steps: Natural = 0
  random_choose: Choose = masks.random_span
  find: extract.Extract = extract.masked
  locate: Locate = masks.as_written
  rules: tuple[Rule, ...] = (masks.limits,)
  hide: Hide = masks.everywhere
  task: mask_tasks.PredictSpan = mask_tasks.PredictSpan()
  unusable: float = 0.0
  predictions: Sampling | None = None

  def __post_init__(self):
    checks.check_fields(self)
    if self.choose and self.random_steps:
      raise checks.setting_error(
        type(self), 'random_steps', self.random_steps,
        '0 with `choose`, by which the policy never chooses',
      )  # fmt: skip
    if self.random_choose is not masks.random_span and not self.random_steps:
      raise checks.setting_error(
        type(self), 'random_steps', 0,
        'the number of first steps in which `random_choose` chooses',
      )  # fmt: skip

  def check(self, config):
    """Raises if settings of the run do not fit the game."""
    tasks = config.data.task
    tasks = tasks if isinstance(tasks, list | tuple) else (tasks,)
    for task in tasks:
      if not isinstance(task, mask_tasks.ChooseSpan):
        raise ValueError(
          f'Config.data: task {task.name}: expected @mask_tasks.ChooseSpan(), '
          'with whose paragraphs game.Game plays.'
        )
    problems = {
      'max_pass_rate': config.max_pass_rate is not None,
      'router_balance': config.router_balance > 0 and not self.choose,
      'collect': isinstance(config.collect, Refill),
    }
    for name, is_problem in problems.items():
      if is_problem:
        raise checks.setting_error(
          type(config), name, getattr(config, name), PROBLEMS[name]
        )

  @property
  def roles(self) -> tuple[str, ...]:
    return ('',) if self.choose else ('', 'chooser')

  def samplings(self, sampling: Sampling) -> tuple[Sampling, ...]:
    predictions = self.predictions or sampling
    if predictions.temperature != sampling.temperature:
      raise checks.setting_error(
        type(self), 'predictions', predictions,
        f'the temperature of Config.sampling, {sampling.temperature}, since '
        'one update learns from both',
      )  # fmt: skip
    return (predictions,) if self.choose else (predictions, sampling)

  def sizes(self, count: int, sampling: Sampling) -> tuple[int, ...]:
    predicted = count * sampling.samples
    return (predicted,) if self.choose else (predicted, count)

  def __call__(self, parts: Parts) -> Experience | None:
    # The number of this experience follows from saved state. Only the last may
    # have fewer prompts than parts.count.
    is_random = parts.prompts.count // parts.count < self.random_steps
    choose = self.choose or (self.random_choose if is_random else None)
    paragraphs, names = parts.prompts.take(parts.count)
    if not paragraphs:
      return None
    paragraphs = _noted(paragraphs, with_text=bool(choose))
    groups, scored = [], []
    if choose:
      choices, scored = self._by_chance(parts, choose, paragraphs, names)
    else:
      groups = parts.rollouts.sample(parts.sampling, paragraphs, names)
      choices = self._by_policy(parts, paragraphs, names, groups)
    asked, examples = self._examples(parts, paragraphs, names, choices)
    sampling, *_ = self.samplings(parts.sampling)
    most, *_ = self.sizes(parts.count, parts.sampling)
    judged, predicted = _predicted(
      parts, sampling, examples, list(asked.values())
    )
    matches = dict(zip(asked, judged.scores.rewards_PG, strict=True))
    roles = [Collected(predicted, most, sampling.samples)]
    if not self.choose:
      scores = self._scores(names, choices, matches) if groups else None
      roles.append(self._chooser(parts, paragraphs, groups, scores))
    return parts.make_experience(
      roles,
      names=[*names, *asked.values()],
      curriculum=metrics(paragraphs, choices, list(matches.values())),
      resume=parts.prompts.resume(),
      scored=scored,
    )

  def _chooser(
    self,
    parts: Parts,
    paragraphs: Sequence[Example],
    groups: Sequence[Sequence[Sample]],
    scores: Scores | None,
  ) -> Collected:
    """Returns the chooser's role, which is empty if chance has chosen."""
    chosen = _none(parts.sampling)
    if scores:
      judged = parts.without_excluded(
        Judged(paragraphs, groups, scores, scores.rewards_PG)
      )
      chosen = parts.penalized(Groups(judged, np.ones(len(paragraphs), bool)))
    samples = parts.sampling.samples
    return Collected(chosen, parts.count, samples, 'chooser', self.find)

  def _by_chance(
    self,
    parts: Parts,
    choose: Choose,
    paragraphs: Sequence[Example],
    names: Sequence[str],
  ) -> tuple[list[list[Choice]], list[int]]:
    """Returns the choices, and how many tokens of each text were scored."""
    tokenizer, choices = parts.prompts.tokenizer, []
    texts = [example.references[0] for example in paragraphs]
    tokens = [tokenizer.encode(text) for text in texts]
    entropies = parts.rollouts.entropies(tokens)
    for p, name in enumerate(names):
      paragraph = Paragraph(
        texts[p], tokens[p], tokenizer, functools.partial(entropies.look, p)
      )
      rngs = (
        masks.generator(f'{name}/{g}', parts.rollouts.seed)
        for g in range(parts.sampling.samples)
      )
      chosen = [choose(paragraph, rng) for rng in rngs]
      choices.append(
        [self._checked(parts, mask) if mask else Choice(None, 'nothing_to_hide')
         for mask in chosen]
      )  # fmt: skip
    return choices, entropies.computed

  def _by_policy(
    self,
    parts: Parts,
    paragraphs: Sequence[Example],
    names: Sequence[str],
    groups: Sequence[Sequence[Sample]],
  ) -> list[list[Choice]]:
    return [
      [
        self._choice(parts, example.references[0], f'{name}/{g}', sample.text)
        for g, sample in enumerate(group)
      ]
      for example, name, group in zip(paragraphs, names, groups, strict=True)
    ]

  def _choice(
    self, parts: Parts, paragraph: str, name: str, completion: str
  ) -> Choice:
    text, reason, _ = self.find(completion)
    if text is None:
      return Choice(None, reason)
    span = self.locate(paragraph, text)
    if reason := masks.fault(paragraph, span, self.rules):
      return Choice(None, reason)
    rng = masks.generator(name, parts.rollouts.seed)
    return self._checked(parts, Mask(span, self.hide(paragraph, span, rng)))

  def _checked(self, parts: Parts, mask: Mask) -> Choice:
    prompt = self.task.prompt(mask, parts.prompts.tokenizer)
    if len(prompt) > self.task.max_prompt_tokens:
      return Choice(None, 'prompt_too_long')
    return Choice(mask, prompt=prompt)

  def _examples(
    self,
    parts: Parts,
    paragraphs: Sequence[Example],
    names: Sequence[str],
    choices: Sequence[Sequence[Choice]],
  ) -> tuple[dict[tuple[str, Mask], str], list[Example]]:
    """Returns names and examples of the predictions of all different masks.

    Masks that are equal are predicted once. The notes of a prediction are the
    number of its paragraph in the step, the pieces of its passage around the
    marks, and the samples that chose its mask.
    """
    asked, examples = {}, []
    for example, name, group in zip(paragraphs, names, choices, strict=True):
      chosen_by = collections.defaultdict(list)
      for g, choice in enumerate(group):
        if choice.mask:
          chosen_by[choice.mask].append(g)
      for mask, samples in chosen_by.items():
        g = samples[0]
        asked[name, mask] = f'{name}/{g}'
        pieces = mask.passage.split(masks.MARK)
        examples.append(
          dataclasses.replace(
            example,
            prompt_tokens=np.array(group[g].prompt, np.int32),
            references=mask.references,
            kind=self.task.name,
            document=f'{example.document}/{example.segment}',
            segment=g,
            notes={**example.notes, 'passage': pieces, 'chosen_by': samples},
          )
        )
    return asked, examples

  def _scores(
    self,
    names: Sequence[str],
    choices: Sequence[Sequence[Choice]],
    matches: dict[tuple[str, Mask], np.ndarray],
  ) -> Scores:
    """Returns the scores of spans, from the rewards of their predictions."""
    shape = len(choices), len(choices[0])
    rewards_PG = np.full(shape, self.unusable, np.float32)
    reasons_PG = np.full(rewards_PG.shape, '', object)
    for p, (name, group) in enumerate(zip(names, choices, strict=True)):
      for g, choice in enumerate(group):
        reasons_PG[p, g] = choice.reason
        if choice.mask:
          matches_G = matches[name, choice.mask]
          (rewards_PG[p, g],) = difficulty(matches_G[None])
          reasons_PG[p, g] = _outcome(matches_G)
    return Scores(rewards_PG, reasons_PG.astype(np.str_))


def _noted(paragraphs: Sequence[Example], *, with_text: bool) -> list[Example]:
  """Returns the paragraphs with the notes that their predictions get too.

  with_text: adds the text, which the lines of a chooser have anyway.
  """
  return [
    dataclasses.replace(
      example,
      notes={'paragraph': p, 'text': example.references[0]}
      if with_text
      else {'paragraph': p},
    )
    for p, example in enumerate(paragraphs)
  ]


def difficulty(matches_PG: np.ndarray) -> np.ndarray:
  """[P]: the reward of each span, from the rewards of its predictions.

  It is 1 - mean, and 0 if nobody is right, because noise must not pay.
  Predictions without a verdict are skipped; without any verdict, it is NaN.
  """
  counts_P = np.sum(~np.isnan(matches_PG), axis=1)
  rates_P = np.nansum(matches_PG, axis=1) / np.maximum(counts_P, 1)
  rewards_P = np.where(rates_P > 0, 1 - rates_P, 0.0)
  return np.where(counts_P > 0, rewards_P, np.nan).astype(np.float32)


def _outcome(matches_G: np.ndarray) -> str:
  """Says who predicted a span."""
  verdicts = matches_G[~np.isnan(matches_G)]
  if not verdicts.size:
    return 'no_verdict'
  if not (verdicts > 0).any():
    return 'nobody'
  return 'everybody' if (verdicts >= 1).all() else 'some'


def _predicted(
  parts: Parts,
  sampling: Sampling,
  examples: Sequence[Example],
  names: Sequence[str],
) -> tuple[Judged, Groups]:
  """Returns all predictions, if any, and the groups to learn from."""
  if not examples:
    groups = _none(sampling)
    return groups.judged, groups
  judged = parts.rollouts(sampling, examples, names)
  given = [parts.without_excluded(judged)]
  groups = parts.collect(
    lambda count: given.pop() if given else None, len(examples)
  )
  return judged, parts.penalized(groups)


def _none(sampling: Sampling) -> Groups:
  """Returns an empty `Groups`, with the usual number of samples."""
  none_PG = np.zeros((0, sampling.samples), np.float32)
  judged = Judged([], [], Scores(none_PG, none_PG.astype(np.str_)), none_PG)
  return Groups(judged, np.zeros(0, bool))
