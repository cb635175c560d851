r"""Reads the JSON object that a prompt asks a model for.

  parse(reply, {'question': text, 'answer': text}, notes=('thought',))

returns {'question': ..., 'answer': ..., 'thought': ...}, or a `Fault` whose
cause is one of a few, for counts.

Thinking, up to the last </think>, is removed. Then the object is searched for
anywhere: in a code fence, in another object, before or after other text.
Besides JSON, these are read:

  {'a': 'b', 'c': None}     a Python dict
  {“a”: “b”}                typographic quotes
  {"a": "b",}               a comma before the brace
  {"a": "two                a line break in a string
   lines"}
  {"a": Y, "b": 5}          Y, N, yes, no, true, false or a number, unquoted
  {"a": "\sqrt{\frac12}"}   LaTeX with single backslashes

The last object that has any of the fields or notes counts, so that a model may
quote its instructions and correct itself. If that object is broken, there is no
answer, whatever precedes it.

An object without its closing brace counts if all its fields have a complete
value: a string with its closing quote, a list with its bracket, or a number or
word with something after it. A closing ' must have something after it too, as
it may be an apostrophe.

No other repairs are made. In particular, unescaped quotes within a string are a
fault, as nobody knows where such a string ends.

Nothing is evaluated, and nothing here is recursive. Parsing takes time linear
in the length of the reply, whatever it contains.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from rlpt_jax.llm.chat_api import Fault

# (name, value) -> what the field holds. The value is a text or a list of texts;
# it is None if it is anything else, such as an object.
Read = Callable[[str, Any], Any]

LONGEST_KEY = 100  # In characters. Longer ones are no keys.
SHOWN = 200  # Characters of a reply that a fault's detail shows.

_CLOSING = {'"': '"', "'": "'", '“': '”', '‘': '’'}
# Where an object may begin: most braces of other text are skipped at once.
_START = re.compile(r'\{\s*(?:["\'“‘}]|\Z)')
_STOP = re.compile(r'\\.|["\'”’]', re.DOTALL)
_VISIBLE = re.compile(r'\S')
_WORD = re.compile(r'[^\s,{}\[\]:"\'“”‘’]{1,60}')
_BARE = re.compile(
  r'-?\d{1,40}(?:\.\d{1,40})?(?:e[-+]?\d{1,9})?|true|false|y|n|yes|no',
  re.IGNORECASE,
)
_NULL = {'null', 'none'}
_PENDING = object()  # The value of a key that has none yet.
# In JSON, \t and \f begin white space. Nobody wants a form feed, a backspace or
# a lone carriage return before a letter, nor a tab before 'heta'.
_ESCAPE = re.compile(
  r'(?P<latex>\\(?:[bfr](?=[A-Za-z])|'
  r'(?:t(?:an|au|ext(?:bf|it|rm)?|frac|heta|imes|riangle|o)|'
  r'n(?:abla|eq|otin))(?![A-Za-z])))|'
  r'\\(?:(?:u(?P<four>[0-9a-fA-F]{4})|U(?P<eight>[0-9a-fA-F]{8})|'
  r'x(?P<two>[0-9a-fA-F]{2}))|(?P<one>["\'\\/bfnrt”’]))'
)
_CONTROL = {'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}
_PART = re.compile(r'[^,;\n]+')
_NAME = re.compile(r'[^\W_]+')
_YES, _NO = {'y', 'yes', 'true'}, {'n', 'no', 'false'}


# What a field may hold.


def text(name: str, value: Any) -> str | Fault:
  """Returns a text that is not empty; a number is returned as it is written."""
  if isinstance(value, str):
    return value
  return Fault(f'{name} is not a text', shown(value))


def texts(name: str, value: Any, *, most: int = 3) -> list[str] | Fault:
  """Returns the first `most` different texts of a list.

  One text is split at its commas, semicolons and line breaks.
  """
  if isinstance(value, str):
    value = _PART.findall(value)
  if not isinstance(value, list) or None in value:
    return Fault(f'{name} is not a list of texts', shown(value))
  different = dict.fromkeys(filter(None, map(str.strip, value)))
  return [*different][:most] or Fault(f'{name} is empty', '')


def yes_no(name: str, value: Any) -> bool | Fault:
  """Returns True for Y, yes or true, and False for N, no or false."""
  answer = value.strip(' \t\n.!*').casefold() if isinstance(value, str) else ''
  if answer in _YES or answer in _NO:
    return answer in _YES
  return Fault(f'{name} is neither Y nor N', shown(value))


def one_of(name: str, value: Any, *, names: Sequence[str]) -> str | Fault:
  """Returns the one of `names` that is meant.

  Case, punctuation and the word 'and' are ignored, so 'technology and
  engineering.' means 'Technology & Engineering'.
  """
  known = {_words(each): each for each in names}
  if len(known) != len(names):
    raise ValueError(
      f'names: {sorted(names)}: expected names that differ in more than case, '
      "punctuation and the word 'and'."
    )
  meant = known.get(_words(value)) if isinstance(value, str) else None
  return meant or Fault(f'{name} is not in the list', shown(value))


# Reading.


def parse(
  reply: str | None, fields: Mapping[str, Read], *, notes: Sequence[str] = ()
) -> dict[str, Any] | Fault:
  """Returns the fields of the object in a reply.

  reply: None if the model gave none.
  fields: what each field holds. Names are compared ignoring case.
  notes: texts that may be missing or of another kind; then they are ''.
  """
  if reply is None:
    return Fault('no answer', '')
  start = reply.rfind('</think>')
  if reply.rfind('<think>') > start:
    return Fault('cut off', 'in its thinking')
  reply = reply[start + len('</think>') :] if start >= 0 else reply
  found = _last_object(reply, fields.keys(), {*fields, *notes})
  if isinstance(found, Fault):
    return found
  values = {}
  for name, read in fields.items():
    if name not in found:
      return Fault(f'no field {name}', shown(reply))
    if found[name] in ('', []):
      return Fault(f'{name} is empty', shown(reply))
    values[name] = read(name, found[name])
    if isinstance(values[name], Fault):
      return values[name]
  for name in notes:
    note = found.get(name)
    values[name] = note if isinstance(note, str) else ''
  return values


def shown(value: Any) -> str:
  """Returns the beginning of a value, for a fault's detail."""
  value = value if isinstance(value, str) else repr(value)
  return value if len(value) <= SHOWN else f'{value[:SHOWN]}...'


def _words(name: str) -> tuple[str, ...]:
  words = _NAME.findall(name.casefold())
  return tuple(word for word in words if word != 'and')


def _last_object(
  reply: str, needed: Set[str], wanted: Set[str]
) -> dict[str, Any] | Fault:
  """Returns the last object with a wanted field, or why there is none.

  needed: the fields that make an object without its closing brace complete.
  """
  best, other = None, Fault('no object', shown(reply))
  start = _START.search(reply)
  while start is not None:
    place = start.start()
    scan = _Scan(reply, place, wanted)
    state = scan.run()
    is_ours = any(
      isinstance(each, dict) and not wanted.isdisjoint(each)
      for each in scan.opened
    )
    if state == 'cut off':
      if scan.last is not None and not is_ours:
        return scan.last
      done = (x for x in scan.opened if needed <= _complete(x))
      return next(done, Fault('cut off', shown(reply[place:])))
    if state == 'not JSON' and is_ours:
      best = _not_json(reply, place, scan.place)
    elif scan.last is not None:
      best = scan.last
    elif state == 'not JSON':
      other = _not_json(reply, place, scan.place)
    elif state == 'closed':
      other = {}
    start = _START.search(reply, scan.place)
  return other if best is None else best


def _not_json(reply: str, start: int, place: int) -> Fault:
  """Returns the fault of an object that is broken at `place`."""
  # Not the rest of the reply: copying it each time would take quadratic time.
  start = max(start, place - SHOWN // 2)
  return Fault('not JSON', shown(reply[start : start + SHOWN + 1]))


def _complete(container: dict | list) -> Set[str]:
  """Returns the keys whose values are complete."""
  if isinstance(container, list):
    return frozenset()
  return {key for key, value in container.items() if value is not _PENDING}


class _Scan:
  """Reads one object, which begins at `place`.

  Each step reads one thing, and returns the next step.

  opened: the objects and lists that contain `place`, from the outermost. A key
    without its value has the value _PENDING.
  last: of the objects inside that have a wanted field, the last that is closed.
  """

  def __init__(self, reply: str, place: int, wanted: Set[str]):
    self.reply = reply
    self.place = place
    self.wanted = wanted
    self.opened: list[dict | list] = []
    self.last: dict[str, Any] | None = None

  def run(self) -> str:
    """Returns 'closed', 'not JSON', 'cut off', or 'no key' if it is no object.

    Then `place` is where the next object may begin.
    """
    step = self._value
    while callable(step):
      visible = _VISIBLE.search(self.reply, self.place)
      if visible is None:
        return 'cut off'
      self.place = visible.start()
      step = step(visible[0])
    if step == 'not JSON' and self.opened == [{}]:
      # Braces of other text. At most a key was read, and is read again: it has
      # a greatest length so that this does not make the time quadratic.
      return 'no key'
    return step

  def _value(self, char: str):
    if char in '{[':
      self.place += 1
      self.opened.append({} if char == '{' else [])
      return self._key if char == '{' else self._item
    if char in _CLOSING:
      string, end = _string(self.reply, self.place, len(self.reply))
      if end < 0 or (_CLOSING[char] in "'’" and self._is_last(end)):
        return 'cut off'
      return self._put(_unescaped(string).strip(), end)
    word = _WORD.match(self.reply, self.place)
    if word is None:
      return 'not JSON'
    if self._is_last(word.end()):
      return 'cut off'
    if word[0].casefold() in _NULL:
      return self._put('', word.end())
    if _BARE.fullmatch(word[0]):
      return self._put(word[0], word.end())
    return 'not JSON'

  def _key(self, char: str):
    if char == '}':
      return self._close()
    if char not in _CLOSING:
      return 'not JSON'
    most = min(len(self.reply), self.place + 1 + LONGEST_KEY)
    key, end = _string(self.reply, self.place, most)
    if end < 0:
      return 'cut off' if most == len(self.reply) else 'not JSON'
    colon = _VISIBLE.search(self.reply, end)
    if colon is None:
      return 'cut off'
    if colon[0] != ':':
      return 'not JSON'
    self.place = colon.end()
    name = '_'.join(_NAME.findall(key.casefold()))
    # The last of equal keys counts, even if its value is cut off. It must be
    # the last of the dict, where `_put` finds it.
    self.opened[-1].pop(name, None)
    self.opened[-1][name] = _PENDING
    return self._value

  def _item(self, char: str):
    return self._close() if char == ']' else self._value(char)

  def _next(self, char: str):
    is_object = isinstance(self.opened[-1], dict)
    if char == ',':
      self.place += 1
      return self._key if is_object else self._item
    return self._close() if char == '}]'[not is_object] else 'not JSON'

  def _close(self):
    closed = self.opened.pop()
    if isinstance(closed, dict) and not self.wanted.isdisjoint(closed):
      self.last = closed
    self.place += 1
    if not self.opened:
      return 'closed'
    # An object is kept apart from the one that it is in, so that nothing is
    # nested deeply.
    is_list = isinstance(closed, list) and isinstance(self.opened[-1], dict)
    return self._put(closed if is_list else None, self.place)

  def _put(self, value: Any, end: int):
    container = self.opened[-1]
    if isinstance(container, dict):
      container[next(reversed(container))] = value
    else:
      container.append(value)
    self.place = end
    return self._next

  def _is_last(self, end: int) -> bool:
    return _VISIBLE.search(self.reply, end) is None


def _string(reply: str, place: int, most: int) -> tuple[str, int]:
  """Returns the string whose quote is at `place`, and where it ends.

  That is -1 if it does not end before `most`.
  """
  closing = _CLOSING[reply[place]]
  for stop in _STOP.finditer(reply, place + 1, most):
    start, end = stop.span()
    # No value is followed by a letter, so a quote between letters is an
    # apostrophe.
    if stop[0] == closing and not (
      closing in "'’" and reply[end : end + 1].isalpha()
      and reply[start - 1].isalpha()
    ):  # fmt: skip
      return reply[place + 1 : start], end
  return '', -1


def _unescaped(string: str) -> str:
  if '\\' in string:
    string = _ESCAPE.sub(_meant, string)
  # Two escapes may be the halves of a character. Files cannot hold one half.
  return string.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _meant(escape: re.Match) -> str:
  if one := escape['one']:
    return _CONTROL.get(one, one)
  code = escape['four'] or escape['eight'] or escape['two']
  if code is None or int(code, 16) > sys.maxunicode:
    return escape[0]
  return chr(int(code, 16))
