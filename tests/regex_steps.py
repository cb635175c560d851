"""How many steps a backtracking matcher takes: counted, not timed.

`Matcher` finds what `re` finds, slowly, and counts. `worst_texts` writes texts
on which a pattern may be slow: many repetitions of whatever it repeats without
a bound, after the shortest text that leads there, and of that text itself.
"""

import re
import string
import sys
from collections.abc import Callable, Iterator
from re import _compiler, _parser
from re import _constants as ops

LONG = 50  # A repeat beyond it is as good as one without a bound.
CHARACTERS = 'a A1\n.,:;{}()[]你\0' + string.printable + '\u2010'
_ONE = (ops.LITERAL, ops.NOT_LITERAL, ops.IN, ops.ANY)
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT)
# (text, place) -> where the match ends, or None.
Step = Callable[[str, int], int | None]


class TooManySteps(Exception):
  """A match that takes more steps than it may."""


class Matcher:
  """A pattern, matched by backtracking, step by step."""

  def __init__(self, pattern: re.Pattern):
    tree = _parser.parse(pattern.pattern, pattern.flags)
    self.steps = self._most = 0
    self._match = self._sequence([*tree], pattern.flags, lambda text, i: i)

  def places(self, text: str, *, most: int) -> list[tuple[int, int]]:
    """(start, end) of all matches; raises beyond `most` steps."""
    self.steps, self._most = 0, most
    found, start = [], 0
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
      while start <= len(text):
        end = self._match(text, start)
        if end is not None:
          found.append((start, end))
        start = max(end or 0, start + 1)
    finally:
      sys.setrecursionlimit(limit)
    return found

  def _count(self):
    self.steps += 1
    if self.steps > self._most:
      raise TooManySteps(f'{self.steps} steps')

  def _sequence(self, items: list, flags: int, then: Step) -> Step:
    for item in reversed(items):
      then = self._item(item, flags, then)
    return then

  def _item(self, item, flags: int, then: Step) -> Step:
    op, argument = item
    if op in _ONE or op is ops.AT:
      look, width = _alone(item, flags), int(op is not ops.AT)

      def one(text, i):
        self._count()
        return then(text, i + width) if look(text, i) else None

      return one
    if op is ops.SUBPATTERN:
      _, add, remove, part = argument
      return self._sequence([*part], flags & ~remove | add, then)
    if op is ops.BRANCH:
      branches = [self._sequence([*p], flags, then) for p in argument[1]]

      def branch(text, i):
        for step in branches:  # No generator: it would be on the C stack.
          if (end := step(text, i)) is not None:
            return end
        return None

      return branch
    if op in (ops.ASSERT, ops.ASSERT_NOT):
      direction, part = argument
      back = part.getwidth()[0] if direction < 0 else 0
      inside = self._sequence([*part], flags, lambda text, i: i)

      def look_around(text, i):
        is_there = i >= back and inside(text, i - back) is not None
        return then(text, i) if is_there == (op is ops.ASSERT) else None

      return look_around
    assert op in _REPEATS, f'{op}: teach it to the matcher'
    return self._repeat(op, *argument, flags, then)

  def _repeat(self, op, least, most, part, flags: int, then: Step) -> Step:
    if len(part) == 1 and part[0][0] in _ONE:
      look = _alone(part[0], flags)

      def of_one(text, i):
        count = 0
        while count < most and look(text, i + count):
          self._count()
          count += 1
        counts = range(least, count + 1)
        for n in counts if op is ops.MIN_REPEAT else reversed(counts):
          self._count()
          if (end := then(text, i + n)) is not None:
            return end
        return None

      return of_one

    rounds = []  # What comes after each round that is under way.

    def after(text, j):
      again = rounds.pop()
      end = again(text, j)
      rounds.append(again)
      return end

    body = self._sequence([*part], flags, after)

    def of_several(text, i, count=0):
      self._count()

      def again(text, j):
        return of_several(text, j, count + 1) if j > i else None

      def more():
        if count == most:
          return None
        rounds.append(again)
        end = body(text, i)
        rounds.pop()
        return end

      def enough():
        return then(text, i) if count >= least else None

      first, second = (more, enough) if op is ops.MAX_REPEAT else (enough, more)
      end = first()
      return second() if end is None else end

    return of_several


def _alone(item, flags: int) -> Callable[[str, int], bool]:
  """Whether one item of a pattern, of one character or none, is there."""
  state = _parser.State()
  state.flags = flags
  pattern = _compiler.compile(_parser.SubPattern(state, [item]), flags)
  return lambda text, i: pattern.match(text, i) is not None


def worst_texts(pattern: re.Pattern, length: int) -> Iterator[str]:
  """Texts of about so many characters."""
  tree = _parser.parse(pattern.pattern, pattern.flags)
  for head, unit in dict.fromkeys(_pumps([*tree], pattern.flags, [''])[1]):
    for repeated in filter(None, (unit, head, head + unit)):
      text = repeated * (length // len(repeated))
      yield from (head + text, f'{head}{text}\0')


def _pumps(items, flags, heads):
  """(the shortest texts of the items after the heads, what they can repeat)."""
  pumps = []
  for op, argument in items:
    if op in _ONE:
      look = _alone((op, argument), flags)
      characters = [chr(argument)] if op is ops.LITERAL else CHARACTERS
      heads = [
        h + next(filter(lambda c: look(c, 0), characters)) for h in heads
      ]
    elif op in (ops.SUBPATTERN, ops.BRANCH):
      parts = argument[1] if op is ops.BRANCH else [argument[3]]
      add = argument[1] if op is ops.SUBPATTERN else 0
      found = [_pumps([*part], flags | add, heads) for part in parts]
      pumps += [pump for _, more in found for pump in more]
      heads = [head for more, _ in found for head in more[:1]]
    elif op in _REPEATS:
      least, most, part = argument
      once, more = _pumps([*part], flags, heads)
      pumps += more
      if most > LONG:
        units, _ = _pumps([*part], flags, [''])
        pumps += [(head, unit) for head in heads for unit in units]
      heads = [*(once if least else [*heads, *once])]
    heads = heads[:3]
  return heads, pumps
