r"""Extracts the answer from a completion, or the reason why there is none.

If a tag or a box occurs several times, the last one counts, so that a policy
gains nothing by hedging and loses nothing by quoting its instructions while it
thinks. If the last one is broken, there is no answer, whatever precedes it.

Thinking is removed first. Nothing before the last think tag is read:

  no think tag                       the whole text, or format/thinking if the
                                     prompt has opened <think>
  ... </think> B                     B
  ... </think> B <think>             format/thinking: cut off while thinking

The prediction is the text from the last start tag (here <s>) to the first end
tag (<e>) after it:

  A<s>B<e>C                          B
  <s>A<e> <s>B<e>                    B
  <s>A<s>B<e>C<e>                    B: a prediction contains no tag
  <s>A<e> <s>B                       format/open: cut off while predicting
  <s>A</think>                       format/missing: the tag was in the thinking
  <e>A, or no tag                    format/missing
  <s> <e>                            format/empty

The same rules hold for \boxed{ and the brace that closes it. That brace is
found by counting braces, except \{ and \}. In \boxed{1 + \boxed{2}} the inner
box is the last.

A mask, \mask{ and the brace that closes it, is different: the last one that is
closed counts, and its white space is kept (`masked`).

Every `format/` reason gives reward 0, never NaN (RLPT's equation 4: '0
otherwise'). With NaN, such completions would be left out of their group, and no
policy would learn to close its tags. All functions take time linear in the
length of the text.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

START, END = '<|startofprediction|>', '<|endofprediction|>'
_THINK, _THOUGHT = '<think>', '</think>'
_BOXED = re.compile(r'\\boxed\s*{')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)
_MASK_BRACE = re.compile(r'(?P<mask>\\mask\s*\{)|\\.|[{}]', re.DOTALL)


class Answer(NamedTuple):
  """The text to be judged; if it is None, `reason` says why.

  start: where the text begins in the completion; None if that is not known.
  """

  text: str | None
  reason: str = ''
  start: int | None = None


Extract = Callable[[str], Answer]


def prediction(completion: str, *, thinking: bool = False) -> Answer:
  """Returns the text between the last prediction tags.

  thinking: True if the prompt has opened <think>.
  """
  text, reason, offset = after_thinking(completion, thinking=thinking)
  if text is None:
    return Answer(None, reason)
  start = text.rfind(START)
  if start < 0:
    return Answer(None, 'format/missing')
  start += len(START)
  end = text.find(END, start)
  return _inside(text, start, end, offset)


def boxed(completion: str, *, thinking: bool = False) -> Answer:
  r"""Returns the content of the last \boxed{}.

  thinking: True if the prompt has opened <think>.
  """
  text, reason, offset = after_thinking(completion, thinking=thinking)
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
  return _inside(text, start, end, offset)


def masked(completion: str, *, thinking: bool = False) -> Answer:
  r"""Returns the content of the last \mask{} that is closed, unstripped.

  The one that begins last counts, even inside another.

  thinking: True if the prompt has opened <think>.
  """
  text, reason, offset = after_thinking(completion, thinking=thinking)
  if text is None:
    return Answer(None, reason)
  opened, best, is_open = [], None, False
  for match in _MASK_BRACE.finditer(text):
    if match['mask']:
      opened.append(match.end())
      is_open = True
    elif match[0] == '{':
      opened.append(None)
    elif match[0] == '}' and opened:
      start = opened.pop()
      if start is not None and (best is None or start > best[0]):
        best = start, match.start()
  if best is None:
    return Answer(None, 'format/open' if is_open else 'format/missing')
  start, end = best
  if not text[start:end].strip():
    return Answer(None, 'format/empty')
  return Answer(text[start:end], start=offset + start)


def after_thinking(completion: str, *, thinking: bool = False) -> Answer:
  """Returns the text after the thinking; all of it if there is no think tag.

  If the thinking does not end, there is no answer: `format/thinking`.

  thinking: True if the prompt has opened <think>.
  """
  closed = completion.rfind(_THOUGHT)
  if completion.rfind(_THINK) > closed or (closed < 0 and thinking):
    return Answer(None, 'format/thinking')
  start = 0 if closed < 0 else closed + len(_THOUGHT)
  return Answer(completion[start:], start=start)


def _inside(text: str, start: int, end: int, offset: int) -> Answer:
  """Returns text[start:end] stripped; no answer if that is empty or end < 0.

  offset: where `text` begins in the completion.
  """
  if end < 0:
    return Answer(None, 'format/open')
  inside = text[start:end].strip()
  if not inside:
    return Answer(None, 'format/empty')
  start += len(text[start:end]) - len(text[start:end].lstrip())
  return Answer(inside, start=offset + start)
