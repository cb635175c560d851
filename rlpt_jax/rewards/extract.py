r"""The answer in a completion, or why there is none.

Of everything that can be said twice, the last counts: a policy that hedges
gains nothing, and one that quotes its instructions while it thinks loses
nothing. If the last is broken there is no answer, whatever stood before it.

Thinking ends first. What precedes the last think tag is never looked at:

  no think tag                       all of the text, or, where the prompt has
                                     opened <think>, format/thinking
  ... </think> B                     B
  ... </think> B <think>             format/thinking: cut while it thought

Then the prediction: what follows the last start tag, up to the first end tag.

  A<s>B<e>C                          B
  <s>A<e> <s>B<e>                    B
  <s>A<s>B<e>C<e>                    B: no prediction has a tag within
  <s>A<e> <s>B                       format/open: cut while it predicted
  <s>A</think>                       format/missing: it was a thought
  <e>A, or no tag                    format/missing
  <s> <e>                            format/empty

The same with \boxed{ and the brace that closes it: braces count but for \{ and
\}, and of \boxed{1 + \boxed{2}} the inner one is the last.

A `format/` reason is reward 0, never NaN (RLPT's equation 4: '0 otherwise'): if
it were left out of its group, no policy would learn to close its tags.
Everything here takes time linear in the text, whatever the text is.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

START, END = '<|startofprediction|>', '<|endofprediction|>'
_THINK, _THOUGHT = '<think>', '</think>'
_BOXED = re.compile(r'\\boxed\s*{')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)


class Answer(NamedTuple):
  """What is to be judged; if None, `reason` says why there is nothing."""

  text: str | None
  reason: str = ''


Extract = Callable[[str], Answer]


def prediction(completion: str, *, thinking: bool = False) -> Answer:
  """What stands between the last prediction tags. `thinking`: the prompt has
  opened <think>.
  """
  text, reason = after_thinking(completion, thinking=thinking)
  if text is None:
    return Answer(None, reason)
  start = text.rfind(START)
  if start < 0:
    return Answer(None, 'format/missing')
  start += len(START)
  end = text.find(END, start)
  return _inside(text, start, end)


def boxed(completion: str, *, thinking: bool = False) -> Answer:
  r"""What stands in the last \boxed{}. `thinking`: the prompt has opened
  <think>.
  """
  text, reason = after_thinking(completion, thinking=thinking)
  if text is None:
    return Answer(None, reason)
  start = -1
  for match in _BOXED.finditer(text):
    start = match.end()
  if start < 0:
    return Answer(None, 'format/missing')
  depth, end = 1, -1
  for match in _BRACE.finditer(text, start):
    depth += {'{': 1, '}': -1}.get(match[0], 0)
    if depth == 0:
      end = match.start()
      break
  return _inside(text, start, end)


def after_thinking(completion: str, *, thinking: bool = False) -> Answer:
  """What follows the last think tag, if that one closes."""
  closed = completion.rfind(_THOUGHT)
  if completion.rfind(_THINK) > closed or (closed < 0 and thinking):
    return Answer(None, 'format/thinking')
  return Answer(completion if closed < 0 else completion[closed + 8 :])


def _inside(text: str, start: int, end: int) -> Answer:
  """text[start:end] without blanks around it, if it was closed."""
  if end < 0:
    return Answer(None, 'format/open')
  inside = text[start:end].strip()
  return Answer(inside) if inside else Answer(None, 'format/empty')
