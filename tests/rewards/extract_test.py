r"""The table of the module's docstring, and texts that nobody would write."""

import functools

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt_jax.data import prompts
from rlpt_jax.rewards import extract
from rlpt_jax.rewards.extract import END, START


def tags(text: str) -> str:
  return text.replace('<s>', START).replace('<e>', END)


@pytest.mark.parametrize(
  'completion, text, reason',
  [
    ('<s>A<e>', 'A', ''),
    ('I think <s>\n A b\n<e> so it is', 'A b', ''),
    ('A<s>B<e>C', 'B', ''),
    ('<s>A<e> <s>B<e>', 'B', ''),
    ('<s>A<s>B<e>C<e>', 'B', ''),
    ('<s>A<e>B<e>', 'A', ''),
    ('<s>A<e> <s>B', None, 'format/open'),
    ('<s>A', None, 'format/open'),
    ('<e>A<s>', None, 'format/open'),
    ('<e>A', None, 'format/missing'),
    ('A', None, 'format/missing'),
    ('', None, 'format/missing'),
    ('<s> \n <e>', None, 'format/empty'),
    ('<s><e>', None, 'format/empty'),
    # Thoughts are not answers.
    ('<think><s>A<e></think><s>B<e>', 'B', ''),
    ('<s>A<e></think><s>B<e>', 'B', ''),
    ('<think><s>A<e></think>B', None, 'format/missing'),
    ('<think><s>A<e>', None, 'format/thinking'),
    ('</think><s>A<e><think>no', None, 'format/thinking'),
    ('<think><s>A</think>B<e>', None, 'format/missing'),
    ('<s>A</think>B<e>', None, 'format/missing'),
    # Another kind of tag is text.
    ('<s>A<|endofpredictions|>', None, 'format/open'),
    ('<s>A < B > C<e>', 'A < B > C', ''),
  ],
)
def test_prediction(completion, text, reason):
  found = extract.prediction(tags(completion))
  assert found[:2] == (text, reason)


def test_the_tags_are_those_of_the_prompts():
  for prompt in (prompts.ASR, prompts.MSR):
    assert START in prompt and END in prompt
  # A policy that says its task again before it does it.
  assert extract.prediction(prompts.ASR + f'{START}A{END}').text == 'A'
  # One that does nothing else has predicted ' and '.
  assert extract.prediction(prompts.ASR).text == 'and'


@pytest.mark.parametrize(
  'completion, text, reason',
  [
    (r'so \boxed{5}.', '5', ''),
    (r'\boxed{\frac{1}{2}}', r'\frac{1}{2}', ''),
    (r'\boxed{4} no, \boxed{5}', '5', ''),
    (r'\boxed{1 + \boxed{2}}', '2', ''),
    (r'\boxed {5}', '5', ''),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}', ''),
    (r'\boxed{a \\} b}', r'a \\', ''),  # \\ is a line break, not \ and \}.
    (r'\boxed{a \} b}', r'a \} b', ''),
    (r'\boxed{5} \boxed{4', None, 'format/open'),
    (r'\boxed{5\}', None, 'format/open'),
    (r'\boxed{{5}', None, 'format/open'),
    (r'\boxed{}', None, 'format/empty'),
    (r'\boxed{ }', None, 'format/empty'),
    (r'\boxed 5', None, 'format/missing'),
    (r'\boxed5{6}', None, 'format/missing'),
    (r'boxed{5}', None, 'format/missing'),
    (r'<think>\boxed{5}</think> so', None, 'format/missing'),
    (r'<think>\boxed{5}</think>\boxed{6}', '6', ''),
    (r'<think>\boxed{5}', None, 'format/thinking'),
  ],
)
def test_boxed(completion, text, reason):
  assert extract.boxed(completion)[:2] == (text, reason)


@pytest.mark.parametrize(
  'completion, text, reason',
  [
    (r'so \mask{Paris}.', 'Paris', ''),
    (r'\mask{ in  Paris }', ' in  Paris ', ''),  # White space as written.
    (r'\mask{Rome}, no, \mask{Paris}', 'Paris', ''),
    (r'\mask{f(\{x\}) = {y}}', r'f(\{x\}) = {y}', ''),
    (r'\mask{the \mask{Seine}}', 'Seine', ''),
    (r'\mask{Rome} or \mask{Par', 'Rome', ''),  # The last that is closed.
    (r'\mask{Rome \mask{Par', None, 'format/open'),
    (r'\mask{a { b}', None, 'format/open'),
    (r'} \mask{a} }', 'a', ''),
    (r'{{ \mask{a}', 'a', ''),
    (r'\mask{Rome} } \mask{', 'Rome', ''),
    (r'\mask{ }', None, 'format/empty'),
    (r'\mask Paris', None, 'format/missing'),
    (r'mask{Paris}', None, 'format/missing'),
    (r'\\mask{Paris}', None, 'format/missing'),  # A line break, then 'mask'.
    (r'<think>\mask{a}</think> b', None, 'format/missing'),
    (r'<think>\mask{a}', None, 'format/thinking'),
  ],
)
def test_masked(completion, text, reason):
  assert extract.masked(completion)[:2] == (text, reason)


@pytest.mark.parametrize(
  'completion, thinking, text',
  [
    ('A', False, 'A'),
    ('A', True, None),
    ('A</think>B', True, 'B'),
    ('A</think>B</think>C', True, 'C'),
    ('<think>A</think>B', True, 'B'),
    ('<think>A</think>B', False, 'B'),
    ('A</think>', True, ''),
  ],
)
def test_after_thinking(completion, thinking, text):
  found = extract.after_thinking(completion, thinking=thinking)
  assert found.text == text
  assert found.reason == ('format/thinking' if text is None else '')


def test_a_prompt_that_has_opened_the_thoughts():
  for find, text in [
    (extract.prediction, f'{START}A{END}'),
    (extract.boxed, r'\boxed{A}'),
    (extract.masked, r'\mask{A}'),
  ]:
    assert find(text).text == 'A'
    assert find(text, thinking=True).reason == 'format/thinking'
    assert find('so</think>' + text, thinking=True).text == 'A'


PIECES = [
  START, END, '<think>', '</think>', r'\boxed{', r'\boxed', r'\mask{', '{', '}',
  '\\', '<', '<|', ' ', 'a', '\x00', '\ud800', '\n',
]  # fmt: skip


@hypothesis.given(st.lists(st.sampled_from(PIECES), max_size=40).map(''.join))
def test_an_answer_or_a_reason_whatever_comes(completion):
  for find in (extract.prediction, extract.boxed, extract.masked):
    for thinking in (False, True):
      text, reason, _ = find(completion, thinking=thinking)
      assert (text is None) == reason.startswith('format/')
      if text is not None:
        assert text.strip() and text in completion
        assert find is extract.masked or text == text.strip()
        assert reason == ''
        assert '</think>' not in text and '<think>' not in text
  text, *_ = extract.prediction(completion)
  assert text is None or (START not in text and END not in text)


@pytest.mark.parametrize(
  'find, completion, start',
  [
    (extract.prediction, f'a {START}a{END} a', 23),
    (extract.prediction, f'<think>a</think> {START} \n a{END}', 41),
    (extract.prediction, f'a {START}a', None),
    (extract.boxed, r'7 \boxed{7} 7', 9),
    (extract.masked, r'7 </think>7 \mask{ 7} 7', 18),
    (extract.boxed, r'7 </think>7 \boxed{ 7}', 20),
    (extract.after_thinking, '7 </think>7', 10),
    (extract.after_thinking, '7', 0),
    (functools.partial(extract.after_thinking, thinking=True), '7', None),
  ],
)
def test_the_place_of_an_answer(find, completion, start):
  found = find(completion)
  assert found.start == start
  if start is not None:
    assert completion[start : start + len(found.text)] == found.text
