"""Samples completions for the prompts that are not yet in the output file."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import rich.console

from rlpt_jax.completions.group_files import GroupFile, Line
from rlpt_jax.completions.options import SamplingOptions
from rlpt_jax.completions.progress import Progress
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.sampling.requests import Request, sampling_fields
from rlpt_jax.sampling.sampler import Sample, Sampler


class Tally(Protocol):
  """Counts a file's contents; num_bytes is the size of its complete groups."""

  num_bytes: int

  def add(self, lines: list[Line]): ...


# (the number of the first group, groups of samples) -> the lines of each group.
ToLines = Callable[[int, Iterator[list[Sample]]], Iterator[list[Line]]]


@dataclasses.dataclass(kw_only=True)
class Job:
  """Prompts whose completions go to one file.

  ids: one for each prompt; seeds the prompt's samples.
  samples: the number of samples of each prompt.
  tokenizer: None if the run uses token ids only.
  done: the number of prompts whose samples are in the file. Every host has this
    number; only the first host fills `tally`.
  what: the word for prompts in messages.
  source: named in the error message if the weights give NaN.
  """

  file: GroupFile
  ids: Sequence[str]
  tokens: Sequence[tuple[int, ...]]
  samples: int
  sampling: SamplingOptions
  stop_ids: tuple[int, ...]
  tokenizer: Tokenizer | None
  to_lines: ToLines
  tally: Tally
  done: int = 0
  what: str = 'prompts'
  source: Any = ''

  @property
  def is_done(self) -> bool:
    return self.done == len(self.ids)

  @property
  def longest(self) -> int:
    return max(map(len, self.tokens))

  def request(self, i: int) -> Request:
    return Request(
      prompt_tokens=self.tokens[i],
      id=self.ids[i],
      samples=self.samples,
      seed=self.sampling.seed,
      stops=tuple((token,) for token in self.stop_ids),
      **sampling_fields(self.sampling),
    )


def run(
  job: Job,
  sampler: Sampler,
  settings: Line,
  console: rich.console.Console | None,
):
  """Samples the remaining prompts; writes complete groups in prompt order.

  console: shows the progress; None on all hosts but the first, which also
    writes the file.
  """
  with contextlib.ExitStack() as stack:
    write = None
    if console:
      write = stack.enter_context(
        job.file.appending(settings, after=job.tally.num_bytes)
      )
    progress = stack.enter_context(
      Progress(
        console,
        prompts=len(job.ids),
        done=job.done,
        n=job.samples,
        max_new_tokens=job.sampling.max_new_tokens,
      )
    )
    groups = stack.enter_context(
      contextlib.closing(
        sampler.complete(
          map(job.request, range(job.done, len(job.ids))),
          job.tokenizer,
          stop=job.sampling.stop,
          on_step=progress.update,
        )
      )
    )
    try:
      for lines in job.to_lines(job.done, groups):
        if write:
          write(lines)
        job.tally.add(lines)
        job.done += 1
    except FloatingPointError as error:
      raise FloatingPointError(f'{job.source}: {error}') from error
    except KeyboardInterrupt:
      raise KeyboardInterrupt(
        f'{job.done:,} of {len(job.ids):,} {job.what} are in {job.file.path}; '
        'run the same command to resume'
      ) from None
