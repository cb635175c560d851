"""Files of a run's rollouts: rollouts/00000012.jsonl.gz.

Each file holds one step, and each line one completion. A file is written
completely or not at all, and a step that is repeated writes the same bytes.
"""

import dataclasses
import gzip
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from rlpt_jax.core import checks, output_files
from rlpt_jax.core.append_files import not_written
from rlpt_jax.core.checks import Count
from rlpt_jax.core.run_files import ROLLOUTS
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.rewards.extract import Answer
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.experience import Experience
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.sampling.text import Transcript


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
  """Which rollouts a run keeps: those of the newest steps, and of some others.

  last: the number of newest steps.
  every: also keeps each step whose number is a multiple of this.
  tokens: adds every token and its log-probability to the lines.
  """

  last: Count = 100
  every: Count | None = 50
  tokens: bool = False

  def __post_init__(self):
    checks.check_fields(self)


def keep(
  workdir: pathlib.Path,
  step: int,
  kept: Kept,
  experience: Experience,
  rollouts: Rollouts,
):
  """Writes the rollouts of a step, and deletes those that need not be kept."""
  step_lines = (
    lines(
      role.judged, role.advantages_PG, rollouts.tokenizer, step,
      find_answer=role.find_answer or rollouts.reward.find_answer,
      with_tokens=kept.tokens,
    )
    for role in experience.roles
  )  # fmt: skip
  write(workdir, step, itertools.chain.from_iterable(step_lines))
  prune(workdir, step, last=kept.last, every=kept.every)


def lines(
  judged: Judged,
  advantages_PG: np.ndarray,
  tokenizer: Tokenizer,
  step: int,
  *,
  find_answer: Callable[[str], Answer | None] = lambda text: None,
  with_tokens: bool = False,
) -> Iterator[dict[str, Any]]:
  """Yields a line for each completion of a step.

  advantages_PG: NaN (in the file: null) if a completion is not in the loss.
  find_answer: finds the text that was judged, whose position a line records.
  with_tokens: adds the text and the behavior log-probability of each token; the
    latter is null for tokens that an interruption inserted.
  """
  components = {
    name: _rows(name, part, judged)
    for name, part in judged.scores.parts.items()
  }
  for p, (example, group) in enumerate(
    zip(judged.examples, judged.samples, strict=True)
  ):
    prompt = tokenizer.decode(example.prompt_tokens, keep_special=True)
    for g, sample in enumerate(group):
      completion = sample.completion
      line = {
        'step': step,
        'example': example.id,
        'kind': example.kind,
        'sample': g,
        'prompt': prompt,
        'completion': sample.text,
        'references': list(example.references),
        **example.notes,
        **_verdict(judged.scores, p, g),
        'components': {
          name: _verdict(part, row, g)
          for name, (part, rows) in components.items()
          if (row := rows.get(p)) is not None
        },
        'advantage': _number(advantages_PG[p, g]),
        'finish_reason': sample.finish_reason,
        'tokens': len(completion.tokens),
        'interrupted': not completion.is_own.all(),
      }
      answer = find_answer(sample.text)
      if answer and answer.text and answer.start is not None:
        line['answer'] = [answer.start, answer.start + len(answer.text)]
      if with_tokens:
        line['token_texts'] = _token_texts(tokenizer, example, completion)
        line['logprobs'] = [
          round(float(x), 4) if own else None
          for x, own in zip(completion.logprobs, completion.is_own, strict=True)
        ]
      yield line


def _verdict(scores: Scores, p: int, g: int) -> dict[str, Any]:
  """Returns the reward, its reason, and the judge's answer if it was asked."""
  verdict = {
    'reward': _number(scores.rewards_PG[p, g]),
    'reason': str(scores.reasons_PG[p, g]),
  }
  if scores.answers_PG is not None and scores.answers_PG[p, g] is not None:
    verdict['judge_answer'] = scores.answers_PG[p, g]
  return verdict


def _rows(name: str, part: Scores, judged: Judged) -> tuple[Scores, dict]:
  """Returns (the part, {index of a prompt: its row in the part}).

  A part for one kind of example has rows for that kind only.
  """
  prompts = range(len(judged.examples))
  if len(part.rewards_PG) < len(judged.examples):
    prompts = [p for p in prompts if judged.examples[p].kind == name]
  return part, {p: row for row, p in enumerate(prompts)}


def _token_texts(tokenizer: Tokenizer, example, completion) -> list[str]:
  """Returns the text of each token; '' for one that completes no character."""
  prompt = tuple(example.prompt_tokens.tolist())
  piece = Transcript(tokenizer, prompt, with_tokens=True).add(completion)
  starts = [token.offset for token in piece.tokens]
  ends = [*starts, len(piece.text)][1:]
  return [
    piece.text[start:end] for start, end in zip(starts, ends, strict=True)
  ]


def _number(x) -> float | None:
  return None if np.isnan(x) else float(x)


def write(workdir: pathlib.Path, step: int, lines: Iterable[dict[str, Any]]):
  """Writes a step's file on process 0 only, since all have the same lines."""
  if jax.process_index() != 0:
    return
  folder = workdir / ROLLOUTS
  text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
  # A lone surrogate is not valid UTF-8, but its escape is valid JSON.
  data = text.encode('utf-8', 'backslashreplace')
  path = folder / f'{step:08}.jsonl.gz'
  try:
    # Without a time stamp, the same lines give the same bytes.
    whole = gzip.compress(data, compresslevel=6, mtime=0)
    output_files.replace(path, [whole])
  except OSError as error:
    raise not_written(path, error, 'could not be written') from None


def prune(workdir: pathlib.Path, step: int, *, last: int, every: int | None):
  """Deletes files that a run need not keep (see `Kept`), on process 0 only."""
  if jax.process_index() != 0:
    return
  # A killed write has left these; no other process writes here.
  for path in (workdir / ROLLOUTS).glob('*.new'):
    path.unlink()
  for path in (workdir / ROLLOUTS).glob('*.jsonl.gz'):
    number = int(path.name.partition('.')[0])
    is_kept = every is not None and number % every == 0
    if number <= step - last and not is_kept:
      path.unlink(missing_ok=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of a step's file, one for each completion."""
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    return [json.loads(line) for line in lines]
