r"""An example as a person wants to see it, for the terminal and for the page.

The texts are foreign, and some would rather act than be read: escape sequences,
overrides of the reading direction, halves of surrogate pairs. `spelled` makes
such characters visible ('\x1b', '\u202e'); nothing shows a text without it.
"""

import dataclasses
import re
from collections.abc import Iterator

# What a piece of an example is, and how a legend explains it.
ROLES = {
  'template': 'fixed words of the prompt',
  'context': 'context',
  'mask': 'where the target belongs',
  'shown': 'shown: the segment after the target',
  'plain': 'seen, not trained on',
  'loss': 'trained on',
}

# Characters that show nothing by themselves, or act on what is around them. Not
# tabs and line ends, nor the joiners that Persian and emoji are written with.
_UNSEEN = re.compile(
  r'[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e'
  r'\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff'
  r'\U000e0000-\U000e007f]'
)
# The same for a page's script, with the flag u.
UNSEEN_IN_SCRIPT = re.sub(r'\\U([0-9a-f]{8})', r'\\u{\1}', _UNSEEN.pattern)


@dataclasses.dataclass(frozen=True)
class View:
  """One example: what a model sees, and what it must predict."""

  title: str  # 'asr'
  place: str  # 'wikitext · wiki.txt@1200 · segment 5 of 31'
  pieces: tuple[tuple[str, str], ...]  # (role, text) in reading order.
  target: str  # '' if none: ntp and sft have their 'loss' pieces.
  references: tuple[str, ...]  # The target and the segments after it.
  counts: dict[str, int]  # {'prompt tokens': 412, 'target tokens': 23}

  def __post_init__(self):
    for role, text in self.pieces:
      if role not in ROLES:
        raise ValueError(
          f'{self.title} {self.place}: a piece has the role {role!r} '
          f'({text[:40]!r}); expected one of {", ".join(ROLES)}.'
        )


def with_target(view: View) -> list[tuple[str, str]]:
  """The pieces, and the target ('target', text) where it belongs.

  That is at the mask, or else after the context; and since it is shown on lines
  of its own, after a line end that follows.
  """
  if not view.target:
    return list(view.pieces)
  ends = {role: i for i, (role, _) in enumerate(view.pieces, 1)}
  at = ends.get('mask') or ends.get('context') or len(view.pieces)
  before, after = list(view.pieces[:at]), list(view.pieces[at:])
  if after and after[0][1].startswith('\n'):
    role, text = after[0]
    before.append((role, '\n'))
    after[0] = (role, text[1:])
  return [*before, ('target', view.target), *after]


def later_references(view: View) -> list[tuple[int, str]]:
  """(number, text) of the references that the target does not show already."""
  numbered = list(enumerate(view.references, 1))
  return numbered[1:] if view.references[:1] == (view.target,) else numbered


def spelled(text: str) -> Iterator[tuple[str, bool]]:
  """(part, whether it stands for an unseen character) of a text, in order."""
  start = 0
  for match in _UNSEEN.finditer(text):
    if start < match.start():
      yield text[start : match.start()], False
    yield match[0].encode('unicode_escape').decode(), True
    start = match.end()
  if start < len(text):
    yield text[start:], False


def fold(role: str, text: str, limit: int) -> tuple[str, str, str]:
  """(before, hidden, after) of a text; about `limit` characters stay in sight.

  A context keeps its end, which is next to the target, and what comes after the
  target its beginning. Others keep both.
  """
  if len(text) <= limit * 5 // 4:  # To hide a few characters saves nothing.
    return text, '', ''
  head = {'context': 0, 'shown': limit, 'reference': limit}.get(
    role, limit // 2
  )
  start = _word_start(text, head)
  end = _word_start(text, len(text) - limit + head)
  return text[:start], text[start:end], text[end:]


def _word_start(text: str, near: int) -> int:
  """Where a line starts after `near`, or a word; `near` if none soon does."""
  if near in (0, len(text)):
    return near
  soon = text[near : near + 80]
  for blanks in (r'\n+', r'\s+'):
    if match := re.search(blanks, soon):
      return near + match.end()
  return near
