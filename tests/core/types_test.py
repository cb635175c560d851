"""Records are what they say."""

import dataclasses

import numpy as np

from rlpt_jax.core.types import Example


def test_an_example_has_an_id_of_its_own():
  example = Example(
    prompt_tokens=np.array([1, 2], np.int32),
    references=(' And so.',),
    kind='asr',
    corpus='notes',
    document='ships.jsonl:3',
    segment=2,
  )
  assert example.id == 'notes/ships.jsonl:3/2/asr'
  others = [
    dataclasses.replace(example, **change)
    for change in ({'segment': 3}, {'kind': 'msr'}, {'document': 'x'},
                   {'corpus': 'y'})
  ]  # fmt: skip
  assert len({one.id for one in (example, *others)}) == 5
