"""Groups that are packed for a checkpoint come back as they were."""

import dataclasses
import json

import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.rollout import group_state
from rlpt_jax.sampling.requests import Completion, Request
from rlpt_jax.sampling.sampler import SampleGroup

TOKENIZER = ByteTokenizer()


def completion(text, finish_reason):
  tokens = np.array(TOKENIZER.encode(text), np.int32)
  n = len(tokens)
  return Completion(
    tokens, -np.arange(n, dtype=np.float32), np.ones(n, np.float32),
    np.arange(n) % 2 == 0, np.full(n, 7, np.int32), finish_reason, 5,
  )  # fmt: skip


def group(number, *completions):
  text = f'prompt {number}'
  tokens = np.array(TOKENIZER.encode(text), np.int32)
  example = Example(
    tokens, ('a', '\ud800'), 'rlvr', 'corpus', f'd{number}', number,
    {'why': [1, 2]},
  )  # fmt: skip
  request = Request(
    prompt_tokens=tuple(tokens.tolist()), id=text, samples=len(completions),
    max_new_tokens=9,
  )  # fmt: skip
  made = SampleGroup(request, TOKENIZER)
  for sample, each in zip(made.samples, completions, strict=True):
    if each:
      sample.add(each)
  return example, f'name {number}', made


def test_what_is_packed_comes_back():
  packed = [
    group(0, completion('done', 'stop'), None, completion('begun', None)),
    group(1, None, None),
    group(2, completion('x', 'length')),
  ]
  described, arrays = group_state.pack(packed)
  described = json.loads(json.dumps(described))
  found = list(group_state.unpack(described, arrays))
  for (example, name, before), (as_saved, its_name, completions) in zip(
    packed, found, strict=True
  ):
    assert its_name == name
    for field in dataclasses.fields(Example):
      a, b = getattr(as_saved, field.name), getattr(example, field.name)
      assert np.array_equal(a, b), field.name
    for sample, after in zip(before.samples, completions, strict=True):
      assert (after is not None) == sample.has_tokens
      if after:
        for field in dataclasses.fields(Completion):
          a, b = (getattr(x, field.name) for x in (sample.completion, after))
          assert np.array_equal(a, b), field.name


def test_no_array_is_empty():
  assert group_state.pack([]) == ([], {})
  _, arrays = group_state.pack([group(1, None)])
  assert list(arrays) == [group_state.PROMPTS]


def same(example, other):
  for field in dataclasses.fields(Example):
    a, b = getattr(example, field.name), getattr(other, field.name)
    assert np.array_equal(a, b) and type(a) is type(b), field.name


def test_bytes_are_read_back():
  packed = [group(0, completion('done', 'stop'), None), group(1, None)]
  found = group_state.from_bytes(group_state.to_bytes(packed))
  for (example, name, before), (its, its_name, samples) in zip(
    packed, found, strict=True
  ):
    same(example, its)
    assert name == its_name and len(samples) == len(before.samples)
  (done, none), (other,) = (samples for *_, samples in found)
  assert done.finish_reason == 'stop' and none is other is None
  assert group_state.from_bytes(group_state.to_bytes([])) == []


@pytest.mark.parametrize('size', [0, 10, 100, -1])
def test_bytes_that_are_cut_are_refused(size):
  data = group_state.to_bytes([group(0, completion('done', 'stop'))])
  with pytest.raises(ValueError, match='expected groups of samples'):
    group_state.from_bytes(data[:size])


def test_an_example_is_read_back_from_json():
  example, _, _ = group(3, None)
  about = json.loads(json.dumps(group_state.to_json(example)))
  same(example, group_state.from_json(about))
