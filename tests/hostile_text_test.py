"""Whatever a model writes, nothing that reads it raises or takes for ever."""

import inspect
import json
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.analysis import glossary
from rlpt_jax.core.types import Example
from rlpt_jax.data import masks
from rlpt_jax.llm import json_replies
from rlpt_jax.quickstart import truth, wordings
from rlpt_jax.rewards import (
  brackets,
  choice,
  extract,
  final_answer,
  judge,
  likelihood,
  math_verifier,
  math_worker,
  process_pool,
  text_match,
)
from tests import regex_steps

# What the readers look for,
OPENINGS = (
  r'\boxed{', r'\boxed', r'\mask{', '#### ', 'The answer is ', '**Answer:** ',
  '[[', extract.START, '<think>', 'Score: ', 'score',
)  # fmt: skip
ENDINGS = ('}', ']]', extract.END, '</think>', '.', '\n', '', ' or ')
# what a number is made of, or looks as if it were,
NUMBERS = (
  '0', '1', '5', '1.5', '.5', '1,234', '-', '−', '/0', '/ 2', '/', ' million',
  ' thousand', ' 1/2', r'\frac{1}{0}', r'2\frac{1}{2}', '%', '$', '=', ' to ',
  ' out of 10', '²', '½', '٠', '١/٠', '௧', '1e999999', '9' * 5000,
)  # fmt: skip
# and what is in the way.
WORDS = (
  'Mara has 13 shells in all. ', 'he', 'She', 'A', '(B)', 'ß', 'ŉ', 'İ', ' ',
  r'\text{', r'\mathbf{', '{', '}', '\\', '{{{{{{{{', '$$', '\ud800', '\udfff',
  '\x00', '\u2028', '\u0301', '\ufdfa', '你', '𝟏', '\u200b', '"', 'x' * 3000,
)  # fmt: skip


def texts() -> st.SearchStrategy[str]:
  token = (
    st.sampled_from(NUMBERS)
    | st.sampled_from(WORDS)
    | st.characters(exclude_categories=())
  )
  numbers = st.lists(st.sampled_from(NUMBERS), max_size=24).map(''.join)
  anything = st.lists(token, max_size=12).map(''.join)
  said = st.tuples(
    anything, st.sampled_from(OPENINGS), numbers | anything,
    st.sampled_from(ENDINGS),
  ).map(''.join)  # fmt: skip
  return st.lists(said | numbers, min_size=1, max_size=3).map(''.join)


class Pool:
  """Takes what a real one would take, and finds everything wrong."""

  def __init__(self, *_, **__):
    pass

  def map(self, requests):
    for request in requests:
      assert '\n' not in request
      assert len(request.encode()) < process_pool.MAX_BYTES - 32
      _, answer = json.loads(request)
      math_worker.plain(math_worker.tidy(answer))
    return ['wrong'] * len(requests)


EXTRACTORS = {
  'prediction': extract.prediction,
  'boxed': extract.boxed,
  'masked': extract.masked,
  'after_thinking': extract.after_thinking,
  'final_answer': final_answer.final_answer,
  'number': lambda text, **options: final_answer.final_answer(
    text, number=True, **options
  ),
  'bracketed': lambda text, thinking: brackets.bracketed(text),
  'letter': lambda text, thinking: choice.letter(
    text, ['Paris', '12', 'a dog'], thinking=thinking
  ),
}


def encode(text: str) -> list[int]:
  return list(text.encode('utf-8', 'surrogatepass'))


def rewards(text: str):
  """Every reward; those that ask a judge hear the same text from it."""
  find = extract.after_thinking
  yield brackets.Brackets()
  yield choice.Choice()
  yield truth.truth
  for match in (
    text_match.exact, text_match.whole_segments, text_match.prefix,
    text_match.overlap, text_match.common_prefix,
  ):  # fmt: skip
    yield text_match.TextMatch(match, find=find)
  yield judge.ByAnswer(lambda asked: [text] * len(asked), find=find)
  yield likelihood.Likelihood(
    lambda contexts, _: [-1.0] * len(contexts), encode=encode
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(math_verifier, 'ProcessPool', Pool)
    yield math_verifier.MathVerifier(num_workers=1, find=find)


GOLDS = ('5/2 or 3', 'B', 'Mara has 13 shells in all.', r'\boxed{1}')
EXAMPLES = [
  Example(np.array([1]), (gold, 'Paris', '12'), 'asr', 'corpus', 'd', i)
  for i, gold in enumerate(GOLDS)
]


@hypothesis.settings(max_examples=100)
@hypothesis.example('#### 5/0 million')
@hypothesis.example('#### 1.5/2 million')
@hypothesis.given(texts())
def test_any_text_is_an_answer_or_none_and_has_a_reward_or_none(text):
  for name, find in EXTRACTORS.items():
    for thinking in (False, True):
      answer = find(text, thinking=thinking)
      assert (answer.text is None) == (answer.reason in glossary.REASONS), name
  for reward in rewards(text):
    # Raises where a reward is infinite.
    found = reward(EXAMPLES, [[text]] * len(EXAMPLES))
    assert found.rewards_PG.shape == (len(EXAMPLES), 1)
    assert set(found.counts()) <= set(glossary.REASONS)


READERS = (
  brackets, choice, extract, final_answer, json_replies, judge, masks,
  math_worker, text_match, wordings,
)  # fmt: skip


def patterns():
  """The patterns of all modules that read what a model writes."""
  for module in READERS:
    for name, value in vars(module).items():
      if isinstance(value, re.Pattern):
        yield pytest.param(value, id=f'{module.__name__.split(".")[-1]}.{name}')


# A step is a character that is looked at. The most is 53, of `said`, which
# looks 40 characters ahead from each 'answer', and takes 400 after it.
MOST_STEPS = 80  # For each character.


@pytest.mark.parametrize('pattern', patterns())
def test_a_pattern_takes_steps_linear_in_the_text(pattern):
  matcher = regex_steps.Matcher(pattern)
  for text in dict.fromkeys(regex_steps.worst_texts(pattern, 800)):
    found = matcher.places(text, most=MOST_STEPS * len(text))
    assert found == [match.span() for match in pattern.finditer(text)]


@pytest.mark.parametrize('module', READERS)
def test_patterns_have_names(module):
  """One that is written where it is used is not among those."""
  source = inspect.getsource(module)
  used = re.findall(r'\bre\.(?:sub|split|search|match|find\w+)\(', source)
  # A pattern of wordings is made of wordings, not of what a model writes; that
  # of masks is a span with all characters escaped.
  assert len(used) == (module in (masks, wordings))


@pytest.mark.parametrize(
  'pattern',
  [r'\\boxed{(.*)}\s*\Z', r'\s+or', r'(?i:the\s+)?\s*x', '(?:a|b|ab)*c'],
)
def test_a_pattern_that_is_slow_is_noticed(pattern):
  pattern = re.compile(pattern, re.DOTALL)
  matcher = regex_steps.Matcher(pattern)
  with pytest.raises(regex_steps.TooManySteps):
    for text in regex_steps.worst_texts(pattern, 800):
      matcher.places(text, most=MOST_STEPS * len(text))


def test_marks_are_not_sorted_in_long_words(monkeypatch):
  """Python sorts combining marks in time quadratic in their number."""
  lengths = []
  normalize = text_match.unicodedata.normalize

  def noted(form, text):
    lengths.append(len(text))
    return normalize(form, text)

  monkeypatch.setattr(text_match.unicodedata, 'normalize', noted)
  text = '[[' + 'e\u0301\u0316' * 10_000 + ']]'
  brackets.Brackets()(EXAMPLES[:1], [[text]])
  text_match.TextMatch(text_match.prefix, find=extract.after_thinking)(
    EXAMPLES[:1], [[text]]
  )
  assert max(lengths) <= 200 and len(lengths) > 300
