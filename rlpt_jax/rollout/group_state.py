"""Packs examples with their samples into JSON and arrays, for a checkpoint."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlpt_jax.core.types import Example
from rlpt_jax.sampling.requests import Completion
from rlpt_jax.sampling.sampler import SampleGroup

Arrays = Mapping[str, np.ndarray]
PROMPTS = 'prompt_tokens'
# The arrays of a completion, one element per token.
PER_TOKEN = tuple(
  field.name
  for field in dataclasses.fields(Completion)
  if field.type is np.ndarray
)


def pack(
  groups: Iterable[tuple[Example, str, SampleGroup]],
) -> tuple[list[dict[str, Any]], Arrays]:
  """Returns a description of each group, and the arrays of all of them.

  Samples without tokens are described by None. There is no array without
  elements, because a checkpoint cannot hold those.
  """
  described, prompts, completions = [], [], []
  for example, name, group in groups:
    samples = []
    for sample in group.samples:
      if not sample.has_tokens:
        samples.append(None)
        continue
      completion = sample.completion
      completions.append(completion)
      samples.append(
        [
          len(completion.tokens),
          completion.finish_reason,
          completion.prompt_version,
        ]
      )
    about = dataclasses.asdict(example)
    prompts.append(about.pop(PROMPTS))
    described.append(
      {
        'name': name,
        'prompt_length': len(prompts[-1]),
        'example': about,
        'samples': samples,
      }
    )
  arrays = {PROMPTS: np.concatenate(prompts)} if prompts else {}
  if completions:
    arrays |= {
      name: np.concatenate([getattr(c, name) for c in completions])
      for name in PER_TOKEN
    }
  return described, {name: x for name, x in arrays.items() if x.size}


def unpack(
  described: Sequence[Mapping[str, Any]], arrays: Arrays
) -> Iterator[tuple[Example, str, list[Completion | None]]]:
  """Yields the example, the name and the completions of each group."""
  prompt_end = end = 0
  for group in described:
    prompt_start, prompt_end = prompt_end, prompt_end + group['prompt_length']
    about = dict(group['example'])
    example = Example(
      prompt_tokens=arrays[PROMPTS][prompt_start:prompt_end],
      references=tuple(about.pop('references')),
      **about,
    )
    completions = []
    for sample in group['samples']:
      if sample is None:
        completions.append(None)
        continue
      length, finish_reason, prompt_version = sample
      start, end = end, end + length
      completions.append(
        Completion(
          **{name: arrays[name][start:end] for name in PER_TOKEN},
          finish_reason=finish_reason,
          prompt_version=prompt_version,
        )
      )
    yield example, group['name'], completions
