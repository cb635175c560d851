"""Requests as rows of numpy arrays, and reports as pieces of completions."""

import dataclasses
import re

import numpy as np
import pytest

from rlpt_jax.sampling import table as lib
from rlpt_jax.sampling.chunks import (
  ANY,
  LENGTH,
  NO_TOKEN,
  RUNNING,
  STOP,
  Report,
)
from rlpt_jax.sampling.requests import NEVER, Interruption, Request
from rlpt_jax.sampling.table import Sizes, Table

SIZES = Sizes(stops=2, stop_tokens=3, phrase_tokens=4)


def _request(**changes):
  defaults = {'prompt_tokens': (5, 6, 7), 'id': 'a', 'max_new_tokens': 9}
  return Request(**defaults | changes)


def _interruption(**changes):
  defaults = {'phrase': (7, 8), 'after': (4, 4), 'answer': 3}
  return Interruption(**defaults | changes)


def _slots(table):
  return table.slots([3, 0], readers=None)


def _rows(table, slot):
  """What the devices see of a slot."""
  slots = _slots(table)
  rows = {
    field.name: np.asarray(getattr(slots, field.name))[slot].tolist()
    for field in dataclasses.fields(slots)
    if np.ndim(getattr(slots, field.name))
    and field.name not in ('settings', 'readers', 'prefix_length_P')
  }
  settings = {
    name: value_B[slot].tolist()
    for name, value_B in vars(slots.settings).items()
  }
  return rows | settings


def _report(B, T, **changes):
  defaults = {
    'tokens_BT': np.arange(B * T, dtype=np.int32).reshape(B, T),
    'logprobs_BT': np.full((B, T), -1.0, np.float32),
    'policy_logprobs_BT': np.full((B, T), -2.0, np.float32),
    'is_own_BT': np.ones((B, T), bool),
    'count_B': np.full(B, T, np.int32),
    'finish_B': np.full(B, RUNNING, np.int32),
    'last_BW': np.full((B, 3), NO_TOKEN, np.int32),
    'interrupt_B': np.full(B, NEVER, np.int32),
  }
  return Report(**defaults | changes)


def test_a_request_takes_a_row():
  table = Table(3, SIZES)
  free = [_rows(table, slot) for slot in range(3)]
  request = _request(
    samples=4, first_sample=10, seed=3, max_new_tokens=(1, 2, 30, 4),
    temperature=0.5, top_k=20, top_p=0.75, min_p=0.25,
    stops=((1,), (2, 3)),
    interruption=_interruption(unless=(4, 5)),
  )  # fmt: skip
  table.enter(1, request, 2)
  assert [_rows(table, 0), _rows(table, 2)] == [free[0], free[2]]
  assert _rows(table, 1) == {
    'running_B': True,
    'token_B': 7,  # The last of the prompt.
    'sampled_B': 0,
    'key_words_BC': request.key_words(12).tolist(),
    'limit_B': 30,
    'stops_BCW': [[ANY, ANY, 1], [ANY, 2, 3]],
    'last_BW': [NO_TOKEN] * 3,
    'interrupt_B': 4,
    'phrase_BW': [7, 8, 0, 0],
    'phrase_length_B': 2,
    'answer_B': 3,
    'unless_BW': [ANY, 4, 5],
    'temperature_B': 0.5,
    'top_k_B': 20,
    'top_p_B': 0.75,
    'min_p_B': 0.25,
  }


def test_a_row_keeps_nothing_of_the_request_before():
  table = Table(1, SIZES)
  table.enter(
    0,
    _request(
      stops=((1,), (2, 3)), top_k=3, temperature=0.0, min_p=0.5, top_p=0.5,
      interruption=_interruption(phrase=(1, 2, 3, 4), unless=(4,)),
    ),
    0,
  )  # fmt: skip
  last_BW = np.array([[1, 2, 3]], np.int32)
  table.read(_report(1, 5, last_BW=last_BW, interrupt_B=last_BW[:, 0]), 0)
  table.leave(0)
  table.enter(0, _request(id='b', stops=((9,),)), 0)
  found = _rows(table, 0)
  fresh = Table(1, SIZES)
  fresh.enter(0, _request(id='b', stops=((9,),)), 0)
  # But for the words of a phrase of no length.
  assert found.pop('phrase_BW') and _rows(fresh, 0).pop('phrase_BW')
  assert found == {k: v for k, v in _rows(fresh, 0).items() if k != 'phrase_BW'}
  assert found['phrase_length_B'] == 0 and found['interrupt_B'] == NEVER
  assert found['stops_BCW'] == [[ANY, ANY, 9], [NO_TOKEN] * 3]
  assert found['unless_BW'] == [NO_TOKEN] * 3


def test_who_left_does_not_keep_the_filters_at_work():
  table = Table(2, SIZES)
  for slot in range(2):
    table.enter(slot, _request(top_k=5, top_p=0.5, min_p=0.1), 0)
  table.leave(1)
  settings = _slots(table).settings
  assert table.running_B.tolist() == [True, False]
  assert settings.top_k_B.tolist() == [5, 0]
  assert settings.top_p_B.tolist() == [0.5, 1]
  assert settings.min_p_B[1] == 0 < settings.min_p_B[0]


def test_slots_are_copies():
  # The devices may still read what the host goes on to change.
  table = Table(2, SIZES)
  table.enter(0, _request(top_k=5), 0)
  prefix_length_P = np.array([3, 4], np.int32)
  slots = table.slots(prefix_length_P, readers=None)
  table.enter(0, _request(top_k=9, prompt_tokens=(1,), stops=((2,),)), 0)
  table.enter(1, _request(), 0)
  prefix_length_P[:] = 0
  assert slots.running_B.tolist() == [True, False]
  assert slots.token_B.tolist() == [7, 0]
  assert slots.settings.top_k_B.tolist() == [5, 0]
  assert (slots.stops_BCW == NO_TOKEN).all()
  assert slots.prefix_length_P.tolist() == [3, 4]
  types = {
    'running_B': bool, 'token_B': np.int32, 'key_words_BC': np.uint32,
    'stops_BCW': np.int32, 'interrupt_B': np.int32, 'prefix_length_P': np.int32,
  }  # fmt: skip
  assert {name: getattr(slots, name).dtype for name in types} == types
  assert slots.settings.temperature_B.dtype == np.float32


def test_a_report_becomes_pieces():
  table = Table(4, SIZES)
  for slot in (0, 1, 3):
    table.enter(slot, _request(top_k=slot), 0)
  last_BW = np.arange(12, dtype=np.int32).reshape(4, 3)
  report = _report(
    4, 3,
    count_B=np.array([3, 2, 0, 1], np.int32),
    finish_B=np.array([RUNNING, STOP, RUNNING, LENGTH], np.int32),
    is_own_BT=np.array([[True, False, True]] * 4),
    last_BW=last_BW,
    interrupt_B=np.array([5, 6, 7, 8], np.int32),
  )  # fmt: skip
  pieces = table.read(report, version=6)
  assert list(pieces) == [0, 1, 3]  # Nobody sits in slot 2.
  assert [p.tokens.tolist() for p in pieces.values()] == [
    [0, 1, 2],
    [3, 4],
    [9],
  ]
  assert [p.finish_reason for p in pieces.values()] == [None, 'stop', 'length']
  assert pieces[1].logprobs.tolist() == [-1, -1]
  assert pieces[1].policy_logprobs.tolist() == [-2, -2]
  assert pieces[1].is_own.tolist() == [True, False]
  assert pieces[0].versions.tolist() == [6, 6, 6]
  # Who ended is gone; who runs goes on from the last token.
  assert table.running_B.tolist() == [True, False, False, False]
  slots = _slots(table)
  assert slots.token_B[0] == 2 and slots.sampled_B[0] == 3
  assert (slots.last_BW == last_BW).all()
  assert slots.interrupt_B.tolist() == [5, 6, 7, 8]
  assert slots.settings.top_k_B.tolist() == [0, 0, 0, 0]

  report = _report(4, 3, finish_B=np.array([LENGTH, *[RUNNING] * 3], np.int32))
  pieces = table.read(report, version=7)
  assert list(pieces) == [0] and pieces[0].finish_reason == 'length'
  # An idle row has no tokens, or attention would read them at every step.
  assert table.sampled_B.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'stops': ((1,), (2,), (3,))},
      'request a: 3 stops, but at most 2 fit: raise Sizes.stops.',
    ),
    (
      {'stops': ((1,), (2, 3, 4, 5))},
      'request a: 4 tokens in a stop, but at most 3 fit: raise '
      'Sizes.stop_tokens.',
    ),
    (
      {'interruption': _interruption(unless=(1, 2, 3, 4))},
      'request a: 4 tokens in a stop, but at most 3 fit: raise '
      'Sizes.stop_tokens.',
    ),
    (
      {'interruption': _interruption(phrase=(1,) * 5)},
      'request a: 5 tokens in the phrase, but at most 4 fit: raise '
      'Sizes.phrase_tokens.',
    ),
  ],
  ids=str,
)
def test_a_request_for_which_there_is_no_room(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    SIZES.check(_request(**changes))


def test_room_that_is_just_enough():
  request = _request(
    stops=((1, 2, 3), (4,)),
    interruption=_interruption(phrase=(1,) * 4, unless=(1, 2, 3)),
  )
  SIZES.check(request)
  lib.SIZES.check(_request())
  table = Table(1, SIZES)
  table.enter(0, request, 0)
  row = _rows(table, 0)
  assert row['stops_BCW'] == [[1, 2, 3], [ANY, ANY, 4]]
  assert row['phrase_BW'] == [1, 1, 1, 1] and row['unless_BW'] == [1, 2, 3]


@pytest.mark.parametrize('name', ['stops', 'stop_tokens', 'phrase_tokens'])
def test_room_for_nothing_is_refused(name):
  # A stop of no tokens would match every one.
  with pytest.raises(ValueError, match=f'{name}=0: expected at least 1.'):
    Sizes(**{name: 0})
