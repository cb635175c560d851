r"""The view of an example that the terminal and the preview page show.

The texts come from outside, and may have characters that are invisible or that
affect the display: escape sequences, overrides of the reading direction, halves
of surrogate pairs. `spelled` makes them visible ('\x1b', '\u202e'); every text
goes through it.
"""

import dataclasses
import re
from collections.abc import Iterator

# The roles of an example's pieces -> their meanings in a legend.
ROLES = {
  'template': 'fixed words of the prompt',
  'context': 'context',
  'mask': 'where the target belongs',
  'shown': 'shown: the segment after the target',
  'plain': 'seen, not trained on',
  'loss': 'trained on',
}

# Characters that are invisible or act on the text around them, except tabs,
# line ends, and the joiners used in Persian and emoji.
_UNSEEN = re.compile(
  r'[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e'
  r'\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff'
  r'\U000e0000-\U000e007f]'
)
# The same pattern in JavaScript's syntax, with the flag u.
UNSEEN_IN_SCRIPT = re.sub(r'\\U([0-9a-f]{8})', r'\\u{\1}', _UNSEEN.pattern)


@dataclasses.dataclass(frozen=True)
class View:
  """One example: the text a model sees and the text it must predict."""

  title: str  # 'asr'
  place: str  # 'wikitext · wiki.txt@1200 · segment 5 of 31'
  pieces: tuple[tuple[str, str], ...]  # (role, text) in reading order.
  target: str  # '' if none: ntp and sft have 'loss' pieces instead.
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
  """Returns the pieces, with ('target', text) inserted where it belongs.

  It belongs after the mask or, without one, after the context. The target is
  shown on lines of its own, so a line end after it is moved before it.
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
  """Returns (number, text) of all references except the target."""
  numbered = list(enumerate(view.references, 1))
  return numbered[1:] if view.references[:1] == (view.target,) else numbered


def spelled(text: str) -> Iterator[tuple[str, bool]]:
  """Yields the parts of a text: (text, False) or (escaped character, True)."""
  start = 0
  for match in _UNSEEN.finditer(text):
    if start < match.start():
      yield text[start : match.start()], False
    yield match[0].encode('unicode_escape').decode(), True
    start = match.end()
  if start < len(text):
    yield text[start:], False


def fold(role: str, text: str, limit: int) -> tuple[str, str, str]:
  """Splits a text into (before, hidden, after); about `limit` characters show.

  A context keeps its end, which is next to the target; text after the target
  keeps its beginning. Other texts keep both ends.
  """
  if len(text) <= limit * 5 // 4:  # Hiding a few characters saves nothing.
    return text, '', ''
  head = {'context': 0, 'shown': limit, 'reference': limit}.get(
    role, limit // 2
  )
  start = _word_start(text, head)
  end = _word_start(text, len(text) - limit + head)
  return text[:start], text[start:end], text[end:]


def _word_start(text: str, near: int) -> int:
  """Returns the start of a line or word soon after `near`, or `near` itself."""
  if near in (0, len(text)):
    return near
  soon = text[near : near + 80]
  for blanks in (r'\n+', r'\s+'):
    if match := re.search(blanks, soon):
      return near + match.end()
  return near
