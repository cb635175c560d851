"""Packs examples with their samples into JSON and arrays, or into bytes.

Checkpoints hold JSON and arrays; samplers send bytes to their learner.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlpt_jax.core.types import Example
from rlpt_jax.sampling.requests import Completion
from rlpt_jax.sampling.sampler import SampleGroup

Arrays = Mapping[str, np.ndarray]
PROMPTS = 'prompt_tokens'
ABOUT = 'about'  # The JSON among the arrays that are bytes.
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
        {
          'length': len(completion.tokens),
          'finish_reason': completion.finish_reason,
          'prompt_version': completion.prompt_version,
        }
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
      start, end = end, end + sample['length']
      completions.append(
        Completion(
          **{name: arrays[name][start:end] for name in PER_TOKEN},
          finish_reason=sample['finish_reason'],
          prompt_version=sample['prompt_version'],
        )
      )
    yield example, group['name'], completions


def to_bytes(groups: Iterable[tuple[Example, str, SampleGroup]]) -> bytes:
  """Returns the groups as the content of an npz file."""
  described, arrays = pack(groups)
  about = np.frombuffer(json.dumps(described).encode(), np.uint8)
  whole = io.BytesIO()
  np.savez(whole, **{ABOUT: about}, **arrays)
  return whole.getvalue()


def from_bytes(
  data: bytes,
) -> list[tuple[Example, str, list[Completion | None]]]:
  """Returns what `unpack` yields; raises a ValueError for other bytes."""
  try:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
      arrays = dict(archive)
    about = json.loads(arrays.pop(ABOUT).tobytes())
    return list(unpack(about, arrays))
  except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(f'expected groups of samples ({e!r}).') from e


def to_json(example: Example) -> dict[str, Any]:
  about = dataclasses.asdict(example)
  return about | {PROMPTS: example.prompt_tokens.tolist()}


def from_json(about: Mapping[str, Any]) -> Example:
  return Example(
    **about
    | {
      PROMPTS: np.array(about[PROMPTS], np.int32),
      'references': tuple(about['references']),
    }
  )
