r"""Splits plain text into blocks: paragraphs, headings, items of lists, code.

A text from the web may be Markdown, LaTeX, wikitext, a mail wrapped at 72
columns or none of these, and does not say which. `blocks` looks at its lines:

  a blank line            ends a block, also inside a quotation ('>')
  '# x', '== x ==',       a heading is one block, and so is a line of dashes
  x underlined by '===',
  if x is short
  '- x', '1. x', '(a) x'  an item of a list begins a block
  '| a | b |'             a row of a table is a block, and '|---|' belongs to
                          the row above
  ``` or ~~~              code is one block, up to the closing fence; if there
                          is none, up to a blank line
  four blanks or a tab    code is one block, if all of its lines are indented
                          and it does not read like prose, as indented
                          paragraphs do; it may contain blank lines
  '> x'                   a block ends where the depth of quotation changes

It is hard to decide if a single line break ends a block. In wrapped text it
does not. A text counts as wrapped if some of its lines begin in lower case.
Each of these continues the line above it, so the lengths of the lines above
give the width at which the text was wrapped. Any other line of about that width
is taken to be wrapped too; a shorter line ends where its author wanted.

A displayed formula, `$$..$$`, `\[..\]` or an environment such as equation, is
never split. It belongs to the surrounding sentence, unless a blank line
separates them.
"""

import bisect
import functools
import itertools
import math
import re
import statistics
from typing import NamedTuple


class Block(NamedTuple):
  """The block text[start:end]; if `whole`, it is never split into sentences."""

  start: int
  end: int
  whole: bool


class _Line(NamedTuple):
  start: int
  body: int  # The offset after '>' marks and indentation.
  end: int  # The offset before trailing white space.
  kind: str  # The group of _LINE that matched; 'indent' is plain text.
  depth: int  # The number of '>' marks.
  indent: int


_LINE = re.compile(
  r"""
  (?P<quote> (?:[ \t]{0,3}+>)*+ )
  (?P<indent> [ \t]*+ )
  (?: (?P<blank> \s*+\Z )
    | (?P<fence> `{3,}+(?=[^`]*+\Z) | ~{3,}+ )
    | (?P<rule> (?P<mark>[-=_*^#+])(?:[ \t]*+(?P=mark)){2,}+\s*+\Z )
    | (?P<heading> \#{1,6}[ \t] | =.+=\s*+\Z )
    | (?P<row> \|.*\|\s*+\Z )
    | (?P<item> [*+•‣◦▪●○][ \t] )
    # Items, header fields and speakers; but a wrapped line may begin in the
    # same way: 'on May\n12. It was'.
    | (?P<perhaps_item>
        (?: [-–—] | \(?\d{1,3}[.)] | (?:\d{1,3}\.)+\d{1,3}\.? | \[\d{1,3}\]
          | \(?[A-Za-z][.)] | \(?[ivxIVX]{1,5}[.)]
          | [A-Z][\w-]*+: )
        [ \t]++ (?![A-Z]\.) )
  )?""",
  re.VERBOSE,
)
_TABLE_RULE = re.compile(r'[ \t>]*+\|[-:| \t]++\s*+\Z')
_BLANK_LINE = re.compile(r'\n[ \t\r>]*+(?=\n)')
_FORMULA = re.compile(
  r'(?<![\\$])(?:\$\$(?!\$)|\\\[|\\begin\{(?P<name>(?:equation|align|gather|'
  r'multline|eqnarray|displaymath|flalign)\*?)\})'
)
# The first word of a line that may continue the line above. Matches neither
# 'x = 2' nor 'ben: hi': such lines begin something new.
_WORD = re.compile(r'[^\W\d_]{2,}+(?![\w:=(\[/@<])|[^\W\d_](?=[ ,])(?! =)')
# Signs that are frequent in code, but not in prose.
_CODE = re.compile(r'[={}<>\\|@_]|\$(?!\d)|\w\(|;$', re.MULTILINE)
_UNFINISHED = re.compile(r'(?:[,–-]|\b(?:an|and|of|or|the))\Z')

# Wrapped text has a width in this range. Narrower text is verse or a list; in
# wider text, line breaks end paragraphs.
_WIDTHS = 45, 150
# A line counts as wrapped if its `_reach` exceeds this share of the width: in
# wrapped text, reaches differ by about a word, or more if wrapped by hand.
_FULL = 0.85
# Shorter lines end a block even if the next line begins in lower case, as in
# lists of ingredients and in chats.
_SHORT = 30


def blocks(text: str) -> list[Block]:
  """Returns blocks that tile the text; none is blank unless the text is."""
  runs = _runs(text)
  joins = _Joins(text, runs)
  starts, in_code = [], False
  for whole, lines in runs:
    is_code = not whole and _is_code(text, lines)
    if whole or (is_code and not in_code):
      starts.append((lines[0].start, True))
    elif not is_code:
      starts += [(line.start, False) for line in joins.first_lines(lines)]
    in_code = is_code
  if not starts:
    return [Block(0, len(text), True)] if text else []
  starts[0] = (0, starts[0][1])  # Include leading blank lines.
  ends = [start for start, _ in starts[1:]] + [len(text)]
  return [
    Block(start, end, whole)
    for (start, whole), end in zip(starts, ends, strict=True)
  ]


def formulas(text: str) -> list[tuple[int, int]]:
  """Returns the (start, end) of displayed formulas.

  As in TeX, a formula contains no blank line, so a stray '$$' cannot hide the
  rest of the text.
  """
  spans, missing = [], {}
  position, limit = 0, -1
  while match := _FORMULA.search(text, position):
    position = match.end()
    if limit < position:
      blank = _BLANK_LINE.search(text, position)
      limit = blank.start() if blank else len(text)
    name = match['name']
    close = f'\\end{{{name}}}' if name else {'$$': '$$', '\\[': '\\]'}[match[0]]
    if missing.get(close) == limit:
      continue  # Many unclosed formulas must not take quadratic time.
    end = text.find(close, position, limit)
    if end < 0:
      missing[close] = limit
      continue
    position = end + len(close)
    spans.append((match.start(), position))
  return spans


def _runs(text: str) -> list[tuple[bool, list[_Line]]]:
  """Splits a text into runs of lines, wherever a block certainly ends.

  Returns (whole, lines) for each run. A `whole` run is one block, and `lines`
  has only its first line.
  """
  runs, run, above = [], None, None
  unclosed = set()
  start = 0
  while start < len(text):
    stop = text.find('\n', start) + 1 or len(text)
    line = _line(text, start, stop)
    kind = line.kind
    if kind == 'fence':
      stop = _end_of_code(text, line, stop, unclosed)
    if above and line.depth != above.depth:
      run = None
    if (
      kind == 'rule' and run and len(run) == 1 and _is_title(text, line, run[0])
    ):
      runs[-1], run = (True, run), None
    elif kind in ('fence', 'rule', 'heading'):
      runs.append((True, [line]))
      run = None
    elif kind == 'row':
      below = above and above.kind == 'row'
      if not (below and _TABLE_RULE.match(text, start, stop)):
        runs.append((True, [line]))
      run = None
    elif kind == 'blank':
      run = None
    elif run:
      run.append(line)
    else:
      run = [line]
      runs.append((False, run))
    above, start = line, stop
  return runs


def _is_title(text: str, rule: _Line, above: _Line) -> bool:
  """True if a line of dashes underlines a heading, not a paragraph."""
  return text[rule.body] in '-=^' and above.end - above.body <= 80


def _line(text: str, start: int, stop: int) -> _Line:
  match = _LINE.match(text, start, stop)
  body = match.end('indent')
  end = start + len(text[start:stop].rstrip())
  # A tab counts as four blanks.
  indent = len(match['indent']) + 3 * text.count('\t', start, body)
  depth = text.count('>', start, body)
  return _Line(start, body, end, match.lastgroup, depth, indent)


def _end_of_code(text: str, line: _Line, stop: int, unclosed: set) -> int:
  """Returns the end of a fenced block; `stop` is the end of its first line."""
  mark = text[line.body]
  # Fences of six or more marks are treated alike.
  length = 6 if text.startswith(6 * mark, line.body) else 3
  while length < 6 and text.startswith((length + 1) * mark, line.body):
    length += 1
  if (mark, length) not in unclosed:
    close = _fence(mark, length).search(text, stop)
    if close:
      return close.end()
    unclosed.add((mark, length))
  blank = _BLANK_LINE.search(text, stop - 1)
  return blank.end() + 1 if blank else len(text)


@functools.cache
def _fence(mark: str, length: int) -> re.Pattern:
  return re.compile(
    rf'^[ \t>]*+{mark}{{{length},}}+[ \t\r]*+(?:\n|\Z)', re.MULTILINE
  )


def _is_code(text: str, lines: list[_Line]) -> bool:
  """True if a run is indented code, not, for example, a block quotation."""
  if lines[0].kind != 'indent' or any(line.indent < 4 for line in lines):
    return False
  words = text[lines[0].body : lines[-1].end]
  signs, count = len(_CODE.findall(words)), len(words.split())
  if words[0].isupper() or words[0] in '"“‘\'`([':
    last = words[-1] if signs else words.rstrip('"\'”’)] ')[-1:]
    if last in '.?!…"”’' or (last in ',:' and not signs):
      return False
  return count < max(6 * len(lines), 20 * signs)


class _Joins:
  """Decides which line breaks only wrap a paragraph."""

  def __init__(self, text: str, runs: list[tuple[bool, list[_Line]]]):
    self._text = text
    self._formulas = formulas(text)
    self._formula_ends = {end for _, end in self._formulas}
    widths = [
      self._reach(above, below)
      for whole, lines in runs
      if not whole
      for above, below in itertools.pairwise(lines)
      if self._in_lower_case(below) and text[above.end - 1] not in '.?!:;'
    ]
    width = statistics.median_low(widths) if widths else 0
    narrow, wide = _WIDTHS
    self._full = _FULL * width if narrow <= width <= wide else math.inf

  def first_lines(self, lines: list[_Line]) -> list[_Line]:
    """Returns the lines of a run that do not continue the line above."""
    first, listed = lines[:1], lines[0].kind != 'indent'
    for above, below in itertools.pairwise(lines):
      if not self._joined(above, below, listed):
        first.append(below)
        listed = listed or below.kind != 'indent'
    return first

  def _joined(self, above: _Line, below: _Line, listed: bool) -> bool:
    text, last = self._text, self._text[above.end - 1]
    if self._formulas and self._in_formula(below):
      return True
    if above.end in self._formula_ends:
      return not text[below.body].isupper()
    if below.kind == 'item':
      return False
    reach = self._reach(above, below)
    full = reach > self._full
    if below.kind == 'perhaps_item':
      return full and not listed and last not in ':;.'
    if full:
      return True
    if self._in_lower_case(below):
      hanging = below.indent > above.indent
      return (reach > _SHORT or last == ',' or hanging) and last not in '.?!'
    ending = text[max(above.end - 6, above.start) : above.end]
    return reach > _SHORT and bool(_UNFINISHED.search(ending))

  def _in_formula(self, line: _Line) -> bool:
    """True if the line begins with a formula or inside one."""
    i = bisect.bisect_right(self._formulas, (line.body, math.inf)) - 1
    return i >= 0 and line.body < self._formulas[i][1]

  def _in_lower_case(self, line: _Line) -> bool:
    return (
      line.kind == 'indent'
      and self._text[line.body].islower()
      and _WORD.match(self._text, line.body) is not None
    )

  def _reach(self, above: _Line, below: _Line) -> int:
    """The length of the line above with the first word of the line below."""
    word = self._text.find(' ', below.body, below.end)
    word_end = word if word >= 0 else below.end
    return above.end - above.start + 1 + word_end - below.body
