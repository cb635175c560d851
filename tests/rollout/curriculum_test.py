"""What is solved is passed over, once, and for ever."""

import base64
import json

import numpy as np
import pytest

from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.prompts import Prompts
from tests.rollout.prompts_test import Data, example, numbers

NAN = np.nan


def test_the_pass_rate_decides_by_the_latest_group():
  curriculum = Curriculum(0.75)
  curriculum.note(
    [example(i) for i in range(5)],
    np.array(
      [
        [1, 1, 1, -1],  # 3/4.
        [1, 1, -1, -1],  # 1/2.
        [0.1, 2, NAN, NAN],  # All of those with a verdict.
        [NAN] * 4,
        [0] * 4,
      ],
      np.float32,
    ),
  )
  drawn = Prompts(Data(5, 0), curriculum, 0)
  examples, _ = drawn.take(6)
  # Two epochs without 0 and 2.
  assert sorted(numbers(examples)) == [1, 1, 3, 3, 4, 4]
  found = curriculum.metrics()
  assert found == {'curriculum/skipped_share': 4 / 10, 'curriculum/solved': 2}
  # A later group of the same epoch has the last word.
  curriculum.note([example(0)], np.array([[1, 0, 0, 0]], np.float32))
  assert curriculum.metrics() == {
    'curriculum/skipped_share': 0,
    'curriculum/solved': 1,
  }
  # And no verdict has none.
  curriculum.note([example(2)], np.full((1, 4), NAN, np.float32))
  assert curriculum.metrics()['curriculum/solved'] == 1


def run(steps, record=None, size=12):
  """(names of each step, the record after it), from a record on."""
  record = record or {'position': 0, 'drawn': 0, 'solved': ''}
  curriculum = Curriculum(0.5, record['solved'])
  drawn = Prompts(Data(size, record['position']), curriculum, record['drawn'])
  for _ in range(steps):
    examples, names = drawn.take(4)
    # Solved by how often it was drawn and by its number.
    rewards_PG = np.array(
      [[int(name.split('/')[0]) % (n + 2) == 0, 0]
       for n, name in zip(numbers(examples), names, strict=True)],
      np.float32,
    )  # fmt: skip
    curriculum.note(examples, rewards_PG)
    record = drawn.resume()
    yield names, curriculum.metrics(), json.loads(json.dumps(record))


def test_a_run_that_stopped_goes_on_exactly():
  whole = list(run(12))
  assert 0 < whole[-1][1]['curriculum/solved'] < 12
  assert any(metrics['curriculum/skipped_share'] > 0 for _, metrics, _ in whole)
  for stop in (1, 5, 9):
    first = list(run(stop))
    rest = list(run(12 - stop, first[-1][2]))
    assert first + rest == whole


def test_nothing_is_lost_and_what_is_solved_comes_once():
  seen = [name.split('/', 1)[1] for names, *_ in run(12) for name in names]
  assert len(set(seen)) == 12  # Each of the examples.
  solved = Curriculum(0.5)
  solved.note([example(3)], np.ones((1, 2), np.float32))
  drawn = Prompts(Data(4, 0), solved, 0)
  examples, _ = drawn.take(9)
  assert sorted(numbers(examples)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_where_all_is_solved_the_data_ends():
  curriculum = Curriculum(1.0)
  curriculum.note([example(i) for i in range(3)], np.ones((3, 2), np.float32))
  drawn = Prompts(Data(3, 1), curriculum, 7)
  assert drawn.take(2) == ([], [])
  assert drawn.resume()['drawn'] == 7 and drawn.resume()['position'] == 1


def test_without_a_curriculum_nothing_is_noted():
  curriculum = Curriculum(None)
  curriculum.note([example(0)], np.ones((1, 2), np.float32))
  drawn = Prompts(Data(1, 0), curriculum, 0)
  assert len(drawn.take(3)[0]) == 3
  assert curriculum.metrics() == {} and curriculum.record == ''


@pytest.mark.parametrize('count', [0, 1, 1000])
def test_the_record_is_eight_bytes_an_example_in_any_order(count):
  examples = [example(i) for i in range(count)]
  records = []
  for order in (examples, examples[::-1]):
    curriculum = Curriculum(0.5)
    if order:
      curriculum.note(order, np.ones((count, 2), np.float32))
    records.append(curriculum.record)
  assert records[0] == records[1]
  assert len(base64.b64decode(records[0])) == 8 * count
  assert Curriculum(0.5, records[0]).record == records[0]
