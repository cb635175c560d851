"""One benchmark for one model: its questions, and the answers so far."""

import itertools
import math
import pathlib
from collections.abc import Iterator

import jax

from rlpt_jax.completions.group_files import GroupFile, Line
from rlpt_jax.completions.jobs import Job
from rlpt_jax.completions.options import SamplingOptions
from rlpt_jax.completions.prompt_files import Prompt
from rlpt_jax.completions.tokenized import check_tokens, special_ids
from rlpt_jax.core.one_host import broadcast
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.evaluation import questions, results
from rlpt_jax.evaluation.questions import Questions
from rlpt_jax.inference import judges
from rlpt_jax.inference.model_files import ModelFiles
from rlpt_jax.rewards import scores
from rlpt_jax.sampling.sampler import Sample


class Task:
  """One benchmark for one model, with the answers of an earlier run.

  options: what the results depend on, besides the model and the benchmark.
  """

  def __init__(
    self,
    model: str,
    files: ModelFiles,
    problems: Questions,
    tokenizer: Tokenizer,
    *,
    out: pathlib.Path,
    sampling: SamplingOptions,
    options: Line,
  ):
    self.model, self.files, self.problems = model, files, problems
    self.options = options
    self.tally = results.Tally()
    self.job = Job(
      file=GroupFile(
        out / 'answers' / model / f'{problems.name}.jsonl',
        program='rlpt evaluate',
        advice='choose another --out',
      ),
      ids=problems.ids,
      tokens=[tuple(x.prompt_tokens.tolist()) for x in problems.examples],
      samples=problems.samples,
      sampling=sampling,
      stop_ids=tokenizer.eos_ids + special_ids(tokenizer, sampling.stop),
      tokenizer=tokenizer,
      to_lines=lambda first, groups: judged(problems, first, groups),
      tally=self.tally,
      what='problems',
      source=model,
    )
    # Errors name a problem by its id, which says where it is from.
    where = [Prompt(id, {}) for id in problems.ids]
    check_tokens(self.job.tokens, where, files.config.vocab_size, None)
    self.check_settings()
    self._read_done()

  @property
  def settings(self) -> Line:
    return {
      'model': self.files.name,
      'step': self.files.step,
      'benchmark': self.problems.name,
      'problems': self.problems.digest,
      'samples': self.problems.samples,
      **self.options,
    }

  def check_settings(self, **more):
    """Raises if the file of answers was begun with other settings."""
    if jax.process_index() == 0:
      self.job.file.check_settings(self.settings | more)

  def _read_done(self):
    if jax.process_index() == 0:
      expected = [{'problem': id} for id in self.problems.ids]
      needed = ('reward', 'reason', 'tokens', 'finish_reason')
      groups = self.job.file.groups(expected, self.problems.samples, needed)
      for lines, self.tally.num_bytes in groups:
        self.tally.add(lines)
    self.job.done = broadcast(self.tally.problems)

  def result(self, ks: tuple[int, ...]) -> Line:
    """Returns the line of this task in results.jsonl."""
    numbers = results.result(self.tally, self.problems.groups, ks)
    return {
      'model': self.model,
      'benchmark': self.problems.name,
      'step': self.files.step,
      **numbers,
      'settings': self.options,
    }


def judged(
  problems: Questions, first: int, groups: Iterator[list[Sample]]
) -> Iterator[list[Line]]:
  """Yields the lines of each problem, starting with problem `first`."""
  reward = judges.on_all_hosts(problems.reward)
  while some := list(itertools.islice(groups, problems.together)):
    examples = problems.examples[first : first + len(some)]
    texts = [[sample.text for sample in group] for group in some]
    scored = questions.without_unfinished(scores.ask(reward, examples, texts))
    for group, rewards_G, reasons_G in zip(
      some, scored.rewards_PG, scored.reasons_PG, strict=True
    ):
      verdicts = zip(group, rewards_G, reasons_G, strict=True)
      yield [line(problems, first, g, *v) for g, v in enumerate(verdicts)]
      first += 1


def line(
  problems: Questions, p: int, g: int, sample: Sample, reward, reason
) -> Line:
  """Returns the line for sample g of problem p in the file of answers."""
  return {
    'problem': problems.ids[p],
    'sample': g,
    'reward': None if math.isnan(reward) else float(reward),
    'reason': str(reason),
    'right': problems.examples[p].references[0],
    'finish_reason': sample.finish_reason,
    'tokens': len(sample.completion.tokens),
    'prompt': problems.prompts[p],
    'completion': sample.text,
  }
