"""The curves that a page draws of runs: their titles, meanings and values.

A page counts steps from 1, as the terminal does; the files of a run count from
0. The x axis of a run of N steps has the positions 0 to N: a measurement of
step n is at n, the end of that step, and one made before the first step is at
0. Held-out examples are evaluated after the update of a step, but the rollouts
of that step come from the policy before the update.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlpt_jax.analysis.glossary import KINDS, REASONS
from rlpt_jax.analysis.plots import short

Columns = Mapping[str, np.ndarray]  # Key -> a number for each step, or NaN.

BEFORE, HELD_OUT = 'held_out_before/', 'held_out/'


@dataclasses.dataclass(frozen=True)
class Curve:
  """A curve; with {} in its key, one curve for each key that matches.

  `key` is a key of metrics.jsonl, `meaning` explains the curve to newcomers.
  """

  key: str
  title: str
  meaning: str
  log: bool = False  # True for a logarithmic axis, since only ratios matter.


# In a key, {} stands for any text; in a title and a meaning, for the same text.
MAIN = (
  Curve(
    'reward/mean', 'Reward',
    'The mean reward of the answers that a step sampled and learned from. '
    'Good: it rises, then levels off.',
  ),
  Curve(
    'held_out/reward', 'Held-out reward',
    'The same reward on examples that are never learned from. Good: it rises '
    'with the training reward; if only the training reward rises, the policy '
    'is memorizing its examples.',
  ),
  Curve(
    'held_out/reward/{}', 'Held-out reward: {}',
    'One part of the held-out reward, or a reward that is only recorded. '
    'Good: it rises with the whole; if the whole rises without it, the policy '
    'may be gaming the reward.',
  ),
  Curve(
    'held_out/loss', 'Held-out loss',
    'The loss on text that is never learned from. Good: it falls; if it rises '
    'again, training has gone on for too long.',
  ),
  Curve(
    'pass_rate/{}', 'Accuracy: {}',
    'The share of answers to {} examples with a reward above 0. Good: it rises '
    'for every task, not for one at the cost of another.',
  ),
  Curve(
    'length/mean', 'Response length',
    'The mean number of tokens in an answer. Good: steady, or growing while '
    'the reward grows; a jump up to the limit or down to nothing is a bad '
    'sign.',
  ),
  Curve(
    'entropy', 'Entropy',
    'How uncertain the policy is about its next token, in nats. Good: it '
    'falls slowly; near 0 all answers are alike and nothing more is learned.',
  ),
  Curve(
    'sampler/gap_mean', 'Sampler-learner gap',
    'How much sampler and learner disagree about the log-probability of a '
    'sampled token. Good: near 0 (1e-5 in float32, 1e-2 in bfloat16) and '
    'flat; look here first when a run goes wrong.',
    log=True,
  ),
  Curve(
    'loss', 'Loss',
    'What an update minimizes. On plain text it should fall; with rewards it '
    'stays near 0 and says little, but must not jump.',
  ),
  Curve(
    'gradient_norm', 'Gradient norm',
    'How large the gradient of a batch is. Good: bounded, without growing '
    'spikes.',
  ),
)  # fmt: skip
MORE = (
  Curve(
    'pass_rate', 'Accuracy: all tasks',
    'The share of all answers with a reward above 0. Good: it rises.',
  ),
  Curve(
    'held_out/pass_rate', 'Held-out accuracy',
    'The share of answers to held-out examples with a reward above 0. Good: '
    'it rises.',
  ),
  Curve(
    'flat_group_share', 'Flat groups',
    'Groups whose answers all got the same reward, which teach nothing. Good: '
    'well below 1.',
  ),
  Curve(
    'truncated_share', 'Truncated answers',
    'Answers that reached the token limit before they ended. Good: near 0.',
  ),
  Curve(
    'format_failure_share', 'Without a prediction',
    'Answers in which no prediction was found, whatever they say. Good: it '
    'soon falls to 0.',
  ),
  Curve(
    'no_verdict_share', 'Without a verdict',
    'Answers for which the judge gave no verdict; they are left out. Good: 0.',
  ),
  Curve(
    'reward/std', 'Spread of the reward',
    'The standard deviation of the reward over a batch. Good: above 0, or '
    'there is nothing to learn from.',
  ),
  Curve(
    'sampler/gap_max', 'Largest sampler-learner gap',
    'The largest disagreement between sampler and learner about a token of '
    'the batch. Good: no spikes.',
    log=True,
  ),
  Curve(
    'clip_share', 'Clipped tokens',
    'Tokens that get no gradient from the loss because their probability has '
    'moved too far. Good: 0 on-policy, a few hundredths otherwise.',
  ),
  Curve(
    'staleness/mean', 'Staleness',
    'How many updates old the weights are that sampled a token, on average. '
    'Good: 0 in synchronous training; below the limit of the schedule else.',
  ),
  Curve(
    'sampler/ratio_p99', 'Probability ratio, 99%',
    'The probability of a token under the learner, divided by that under the '
    'weights that sampled it: the value that 1% of tokens exceed. Good: near '
    '1; far above it, the samples are too old for what was learned since.',
  ),
  Curve(
    'sampler/effective_share', 'Effective samples',
    'The share of tokens that are left, in effect, if each counts by its '
    'probability ratio. Good: above 0.9.',
  ),
  Curve(
    'timing/slots_in_use', 'Slots in use',
    'The share of the rows of all decode steps that sampled a token. Good: '
    'above 0.9; lower, if a batch waits for its longest completions.',
  ),
  Curve(
    'learning_rate', 'Learning rate',
    'The size of an update, as set by the schedule.',
  ),
  Curve(
    'timing/tokens_per_s', 'Tokens per second',
    'Tokens sampled (or learned, on plain text) divided by the time of the '
    'whole step. Good: high and steady.',
  ),
  Curve(
    'reward/{}/mean', 'Part of the reward: {}',
    'The mean of one part of the reward, or of a reward that is only recorded.',
  ),
)  # fmt: skip
PARTS = (
  'rollout', 'reward', 'update', 'data', 'publish', 'held_out', 'save', 'idle',
)  # fmt: skip
TIME = (
  'How the seconds of a step are spent. Good: mostly on rollout and update; '
  'idle is the time that no part accounts for, such as compilation in the '
  'first steps.'
)
VERDICTS = (
  'Why answers got their reward, as shares of all answers. Good: right grows, '
  'and reasons that begin with format/ soon disappear.'
)


def panels(
  curves: Sequence[Curve], runs: Sequence[Columns]
) -> list[dict[str, Any]]:
  """Returns the curves that have values in any of the runs, as dicts.

  The dicts have the fields of `Curve`. A curve with {} in its key gives a dict
  for each key that matches.
  """
  keys = dict.fromkeys(key for run in runs for key in run)
  entries = []
  for curve in curves:
    start, rest, end = curve.key.partition('{}')
    matches = [curve.key] if curve.key in keys else []
    if rest:
      matches = sorted(
        key
        for key in keys
        if key.startswith(start) and key.endswith(end) and _rest(curve, key)
      )
    for key in matches:
      if any(np.isfinite(run[key]).any() for run in runs if key in run):
        name = _rest(curve, key)
        if name in KINDS:
          name = f'{name} ({KINDS[name]})'
        title, meaning = (
          text.replace('{}', name) for text in (curve.title, curve.meaning)
        )
        entries.append(
          {'key': key, 'title': title, 'meaning': meaning, 'log': curve.log}
        )
  return entries


def _rest(curve: Curve, key: str) -> str:
  start, _, end = curve.key.partition('{}')
  return key[len(start) : len(key) - len(end)]


def time_parts(columns: Columns) -> list[str]:
  """Returns the keys of the parts of a step that took time, in PARTS' order."""
  keys = [
    key
    for key in columns
    if key.startswith('timing/')
    and key.endswith('_s')
    and not key.endswith(('/step_s', 'per_s'))
    and np.nanmax(columns[key], initial=0) > 0
  ]
  order = [f'timing/{name}_s' for name in PARTS]
  return sorted(keys, key=lambda key: (*order, key).index(key))


def verdicts(columns: Columns) -> dict[str, dict[str, np.ndarray]]:
  """Returns {part of the reward: {reason: its share of answers, per step}}.

  The part '' is the whole reward. A share is 0 at a step that has only other
  reasons, and NaN at a step that has no reasons at all.
  """
  result, parts = {}, re.findall('^reward/(.+)/mean$', '\n'.join(columns), re.M)
  for key in columns:
    if key.startswith('reason/'):
      reason = key.removeprefix('reason/')
      part = next((p for p in parts if reason.startswith(f'{p}/')), '')
      reason = reason.removeprefix(f'{part}/') if part else reason
      result.setdefault(part, {})[reason] = columns[key]
  for shares in result.values():
    known = np.any([np.isfinite(values) for values in shares.values()], axis=0)
    for reason, values in shares.items():
      shares[reason] = np.where(known, np.nan_to_num(values), np.nan)
  return dict(sorted(result.items()))


def reasons(names: Iterable[str]) -> list[str]:
  """Returns the reasons, each once, from best to worst, unknown ones last."""
  order = [*REASONS]
  return sorted({*names}, key=lambda x: ((*order, x).index(x), x))


def axes(columns: Columns) -> dict[str, np.ndarray]:
  """Returns the x coordinates that curves may have, as {name: values}.

  Each has a value for the start of the run and for the end of every step:
  'step', and, if known, 'compute' (FLOPs so far) and 'time' (seconds so far).
  """
  positions = {'step': np.append(columns['step'], columns['step'][-1:] + 1)}
  totals = [
    values
    for key, values in columns.items()
    if key.startswith('compute/total_') and key.endswith('flops')
  ]
  if totals:
    positions['compute'] = np.append(0, np.nansum(totals, axis=0))
  if 'timing/step_s' in columns:
    seconds = np.nan_to_num(columns['timing/step_s'])
    positions['time'] = np.append(0, np.cumsum(seconds))
  return positions


def series(columns: Columns, key: str) -> np.ndarray:
  """Returns a value from before the first step, then one per step.

  Missing values are NaN. Only held-out curves may have a value from before the
  first step.
  """
  before = None
  if key.startswith(HELD_OUT):
    before = columns.get(key.replace(HELD_OUT, BEFORE))
  start = [np.nan] if before is None else before[:1]
  return np.concatenate([start, columns[key]])


def thinned(values: np.ndarray, most: int) -> np.ndarray:
  """Averages neighbours so that at most `most` values remain."""
  if len(values) <= most:
    return values
  edges = np.linspace(0, len(values), most + 1).astype(int)
  known = np.isfinite(values)
  total = np.add.reduceat(np.where(known, values, 0.0), edges[:-1])
  count = np.add.reduceat(known.astype(int), edges[:-1])
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def numbers(values: np.ndarray, digits: int = 5) -> list[float | None]:
  """Rounds values for JSON; NaN and infinity become None."""
  return [
    float(f'{value:.{digits}g}') if math.isfinite(value) else None
    for value in values
  ]


def facts(columns: Columns) -> dict[str, str]:
  """Returns a run's main numbers as {name: text}."""
  texts = {}
  parts = sorted(key for key in columns if key.startswith(f'{HELD_OUT}reward/'))
  names = ['reward', *(key.removeprefix(HELD_OUT) for key in parts)]
  for name in (*names, 'pass_rate', 'loss'):
    key = HELD_OUT + name
    if key in columns:
      known = series(columns, key)
      known = known[np.isfinite(known)]
      if len(known):
        what = {'pass_rate': 'accuracy'}.get(name, name).replace('/', ': ')
        texts[f'held-out {what}'] = _from_to(known[0], known[-1])
  # If every reward is 0 or 1, accuracy and reward are the same.
  if texts.get('held-out accuracy') == texts.get('held-out reward'):
    texts.pop('held-out accuracy', None)
  for name, key in (
    ('reward', 'reward/mean'),
    ('reward of spans', 'chooser/reward/mean'),
    ('loss', 'loss'),
  ):
    if key in columns and not (name == 'loss' and 'reward/mean' in columns):
      texts[name] = _from_to(*ends(columns[key]))
  texts['steps'] = f'{len(columns["step"]):,}'
  for kind, text in (
    ('rollout_tokens', 'tokens sampled'),
    ('tokens', 'tokens learned'),
  ):
    total = columns.get(f'compute/total_{kind}')
    if total is not None:
      texts[text] = short(float(total[-1]))
  along = axes(columns)
  if 'compute' in along:
    texts['FLOPs'] = f'{along["compute"][-1]:.3g}'.replace('e+', 'e')
  if 'time' in along:
    texts['wall time'] = duration(float(along['time'][-1]))
  return texts


def ends(values: np.ndarray) -> tuple[float, float]:
  """Returns the means of the first and of the last tenth of the finite values.

  A tenth has at least 1 and at most 20 values here.
  """
  known = values[np.isfinite(values)]
  if not len(known):
    return math.nan, math.nan
  count = min(20, max(1, len(known) // 10))
  return float(known[:count].mean()), float(known[-count:].mean())


def _from_to(before: float, after: float) -> str:
  return f'{before:.3f} → {after:.3f}'


def duration(seconds: float) -> str:
  """Formats seconds as '42 s', '3 min 5 s' or '2 h 10 min'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60} min'
