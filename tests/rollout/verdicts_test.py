"""Judges that break: what is said of it, and when a run stops."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.rewards import combine, extract, judge, scores
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.rollout.verdicts import Verdicts

BOTH = 'Score: 0\nScore: 1'
PROSE = 'As a language model, I cannot score this.'


def judged(answers, *, formless=0, wrap=lambda reward: reward) -> Judged:
  """A step: completions that the judge answers so, and some without form."""
  texts = [f'{extract.START}so {i}{extract.END}' for i in range(len(answers))]
  examples = [SimpleNamespace(kind='asr', references=('so it is',))]
  reward = wrap(judge.ByAnswer(lambda asked: answers, min_share=0))
  found = reward(examples, [texts + ['no tags'] * formless])
  return Judged(examples, [], found, found.rewards_PG)


def test_a_format_failure_does_not_hide_a_broken_judge():
  with pytest.raises(ValueError) as caught:
    Verdicts(3).check(7, judged([BOTH] * 17, formless=15))
  assert str(caught.value) == (
    'step 7: 17 of 17 verdicts are missing (17 judge/both). The judge answered '
    "'Score: 0 Score: 1', expected 'Score: 0' or 'Score: 1': use a judge that "
    'follows instructions, with chat = False if it has no chat template (a '
    'base model), or give it more tokens (max_tokens in Endpoint.fields, or '
    'max_new_tokens). Fix this without changing settings and restart: the '
    'run resumes with the same completions. Other settings of the reward need '
    'another workdir; its model may be the checkpoints of this one.'
  )


def test_nor_does_another_part_of_the_reward():
  def with_length(reward):
    length = scores.Each(lambda *_: scores.Verdict(0.5, 'scored'))
    return combine.Weighted({'judge': (reward, 1.0), 'length': (length, 1.0)})

  def by_kind(reward):
    return combine.ByKind({'asr': with_length(reward)})

  for wrap in (with_length, by_kind):
    with pytest.raises(
      ValueError, match=r'8 of 8 .* judge/judge/both.*answered'
    ):
      Verdicts(3).check(0, judged([BOTH] * 8, formless=8, wrap=wrap))


def test_a_few_that_are_lost_stop_a_run_only_when_it_goes_on():
  """One answer is asked for and lost: that may happen once."""
  verdicts = Verdicts(3)
  verdicts.check(0, judged([PROSE], formless=7))
  verdicts.check(1, judged([PROSE], formless=7))
  assert verdicts.in_a_row == 2
  # Where nobody was asked, nothing is known.
  verdicts.check(2, judged([], formless=8))
  assert verdicts.in_a_row == 2
  with pytest.raises(ValueError, match=r'1 of 1 .*, 3 steps in a row. Fix'):
    verdicts.check(3, judged([PROSE], formless=7))
  # One that goes on knows of it; a step with verdicts ends it.
  verdicts = Verdicts(3, in_a_row=2)
  verdicts.check(3, judged([PROSE, 'Score: 1'], formless=6))
  assert verdicts.in_a_row == 0


def test_hardly_any_is_as_good_as_none():
  answers = ['Score: 0', *[PROSE] * 19]  # 5%.
  verdicts = Verdicts(2)
  verdicts.check(0, judged(answers))
  with pytest.raises(ValueError, match=r'19 of 20 .*, 2 steps in a row'):
    verdicts.check(1, judged(answers))
  verdicts = Verdicts(1)
  verdicts.check(0, judged(['Score: 0', *answers]))


def test_a_step_without_any_verdict_stops_it_at_once():
  with pytest.raises(
    ValueError,
    match=r'2 of 2 verdicts .* did not answer: either.*Fix this and restart: ',
  ):
    Verdicts(3).check(1, judged([None, None]))
  nan = np.full((1, 2), math.nan, np.float32)
  empty = scores.Scores(nan, np.full((1, 2), 'gold/empty'))
  step = Judged([SimpleNamespace(kind='asr')], [], empty, nan)
  with pytest.raises(ValueError, match=r'2 of 2 .*\(2 gold/empty\)\. The rewa'):
    Verdicts(3).check(0, step)


def test_missing_verdicts_are_told_of_once(caplog):
  caplog.set_level(logging.WARNING)
  verdicts = Verdicts(3)
  verdicts.check(0, judged(['Score: 1'] * 4))
  assert not caplog.records
  for step in (1, 2):
    verdicts.check(step, judged(['Score: 1', PROSE, '', None], formless=1))
  (record,) = caplog.records
  said = record.getMessage()
  assert said.startswith(
    'step 1: 3 of 4 verdicts are missing (2 judge/unparsable, 1 judge/failed). '
    f"The judge answered '{PROSE}', expected 'Score: 0' or 'Score: 1': use"
  )
  assert said.endswith('Those completions are left out. (This is logged once.)')


@pytest.mark.parametrize('answer', ['', '<think>\nLet me see'])
def test_a_judge_that_thinks_too_long_needs_other_things(answer):
  with pytest.raises(ValueError, match=r'no tokens left.*turn its thinking'):
    Verdicts(3).check(0, judged([answer] * 8))
