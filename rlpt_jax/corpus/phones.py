"""Finds phone numbers in a text.

A number is found if it is

  +44 20 7946 0123, 0044 ...   international, and the country has such numbers
  202-555-0143, 020 7946 0123  written as in one of `regions`, and valid there
  Tel. 030 23125 012           after a word such as Tel., of 7 to 13 digits

The library phonenumbers decides what is valid. It sees only what has the shape
of a number, so that other text takes no time.

A number of a region is not found without such a word if nothing but spaces, or
nothing at all, divides its digits: 202 555 0143 could be a row of a table. The
exception is a 0 in front (020 7946 0123), which figures do not have. Nor are
the numbers of countries that have no such 0, Spain's or Norway's.
"""

import functools
import re
from collections.abc import Iterator, Sequence

_DASHES = '\u2010\u2011\u2013'
_GAP = rf'[ .\-/\u00a0{_DASHES}]'
# Digits with what may divide them. A number is in one of these.
_DIGITS = re.compile(
  r'[+(0-9](?:(?<=[0-9])|(?=\+?[0-9]))\+?'
  rf'[0-9 ().\-/\u00a0{_DASHES}]{{5,}}[0-9]'
)
_PIECE = re.compile(r'\(?(?<![0-9])[0-9]')
# In 123.456 7890, a constant of nature, the gaps differ.
_AMERICAN = re.compile(
  rf'(?:1{_GAP})?(?:'
  r'\([2-9][0-9]{2}\)[ -]?[2-9][0-9]{2}[-. ][0-9]{4}|[2-9][0-9]{2}(?:'
  r'-[2-9][0-9]{2}-[0-9]{4}|\.[2-9][0-9]{2}\.[0-9]{4}|'
  r'/[2-9][0-9]{2}[-. ][0-9]{4}|'
  rf'[{_DASHES}][2-9][0-9]{{2}}[{_DASHES}][0-9]{{4}}))'
)
_TRUNK = re.compile(
  rf'\(?0(?:\)[0-9]{{2,5}}|[0-9]{{1,5}}\)?)(?:{_GAP}[0-9]{{2,8}}){{1,5}}'
)
_AFTER_WORD = re.compile(rf'\(?[0-9](?:\)?{_GAP}?\(?[0-9]){{6,12}}')
_DATE_OR_DECIMAL = re.compile(
  r'[12][0-9]{3}[^0-9][12][0-9]{3}\Z'
  r'|[0-9]{1,2}[./-][0-9]{1,2}[./-][12][0-9]{3}\Z'
  r'|[12][0-9]{3}-[0-9]{1,2}-[0-9]{1,2}'
  r'|[0-9]{1,2}\.[0-9]+\Z'
)
# A word such as Tel., and what may stand between it and the number.
_WORD = re.compile(
  r'(?<![\w.])(?i:phone|telephone|tel|fax|telefax|mob|cellphone|sms|ph|whatsapp|'
  r'hotline|switchboard|freephone|freecall|landline|t[eé]l[eé]phone|t[eé]l|'
  r'telefon|mobil|tel[eé]fono|m[oó]vil|telefono|cellulare|telefone|celular|'
  r'telefoon|telefoonnummer|rufnummer'
  r'|(?:mobile|cell|call|ring|dial|portable|handy)(?=[ :.]))'
  r'(?:[^A-Za-z0-9\n]{1,4}(?:(?i:number|numbers|no|nr|me|us|him|her|at|on|is|'
  r'or|to|uk|office|home|work|direct|free|toll|nummer|phone)'
  r'|[A-Z][a-z]{1,15})){0,2}[^A-Za-z0-9\n+]{0,5}\Z'
)
_WORD_REACH = 48
_LETTER = re.compile(r'[^\W\d_][^A-Za-z0-9\n+]{0,5}\Z')
# What may stand between a number and the next one, which needs no other word.
_NEXT = re.compile(
  r'\)?[^\w\n+]{1,4}(?:(?:or|and|oder|und|ou|et|o|y|e|of|en|eller)[^\w\n+]{1,3})?'
)
_BEFORE = re.compile(r'(?:\w|[$€£¥#@%^&*+]|[0-9.][.:]|\S[/-])\Z')
_AFTER = re.compile(r'\w|[-./][0-9]|[%°@]')
_IN_ROW = re.compile(r'[0-9][ \u00a0]\Z')
_GOES_ON = re.compile(r'[ \u00a0][0-9]')


def find(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
  """Yields (start, end) of the phone numbers, in order."""
  last = 0  # Where the last number ends.
  for digits in _DIGITS.finditer(text):
    place, end = digits.span()
    while place < end:
      found = _number(text, place, end, regions)
      # Among digits there are no words: only the first ones may follow one.
      if not found and (
        (last and _NEXT.fullmatch(text, last, place))
        or (place == digits.start() and _is_after_word(text, place))
      ):
        found = _after_word(text, place, end)
      if found:
        yield place, found
        place = last = found
      piece = _PIECE.search(text, place + (not found), end)
      place = piece.start() if piece else end


def unknown(regions: Sequence[str]) -> list[str]:
  """Returns the regions that phonenumbers does not know."""
  known = _library().SUPPORTED_REGIONS
  return [region for region in regions if region not in known]


@functools.cache
def _library():
  try:
    import phonenumbers
  except ImportError as error:
    raise ValueError(
      "Phone numbers need `pip install 'rlpt_jax[corpus]'`, or kinds without "
      "'phone'."
    ) from error
  return phonenumbers


def _number(
  text: str, start: int, end: int, regions: Sequence[str]
) -> int | None:
  """Returns where the number that starts here ends, or None."""
  if _BEFORE.search(text, max(0, start - 2), start):
    return None
  head = text[start : start + 4].lstrip('(')
  if head.startswith('+'):
    return _valid_end(text, start, min(end, start + 28), (None,))
  if head.startswith('00') and head[2:3] not in ('', '0'):
    stop = min(end, start + 28)
    if found := _valid_end(text, start, stop, (None,), drop='00'):
      return found
  if found := _AMERICAN.match(text, start, end):
    american = [r for r in regions if _code(r) == 1]
    if _valid_end(text, start, found.end(), american, cuts=1):
      return found.end()
  if head.startswith('0') and (found := _TRUNK.match(text, start, end)):
    others = [r for r in regions if _code(r) != 1]
    # A number in a row of a table has others beside it.
    is_alone = not _IN_ROW.search(text, max(0, start - 2), start)
    is_alone = is_alone and not _GOES_ON.match(text, found.end())
    if is_alone and _valid_end(text, start, found.end(), others, cuts=1):
      return found.end()
  return None


def _is_after_word(text: str, start: int) -> bool:
  # Most are after none, which shows soon.
  if not _LETTER.search(text, max(0, start - 6), start):
    return False
  return bool(_WORD.search(text, max(0, start - _WORD_REACH), start))


def _after_word(text: str, start: int, end: int) -> int | None:
  if _BEFORE.search(text, max(0, start - 2), start):
    return None
  found = _AFTER_WORD.match(text, start, end)
  if not found or _AFTER.match(text, found.end()):
    return None
  is_open = found[0].count('(') > found[0].count(')')
  if is_open or _DATE_OR_DECIMAL.match(found[0]):
    return None
  return found.end()


def _valid_end(
  text: str,
  start: int,
  end: int,
  regions: Sequence[str | None],
  *,
  drop: str = '',
  cuts: int = 4,
) -> int | None:
  """Returns where a valid number ends, or None.

  cuts: how many ends to try: the last one, and those of the groups before.
  drop: stands for the + of an international number.
  """
  for _ in range(cuts):
    number = text[start:end]
    if _count(number) < 7:
      return None
    if not _AFTER.match(text, end):
      plus = '+' + number.lstrip('(').removeprefix(drop)
      whole = plus if drop else number
      if any(_is_valid(whole, region) for region in regions):
        return end
    # Cut off the last group, and what divides it from the others.
    end = start + len(_without_last_group(number))
  return None


def _without_last_group(number: str) -> str:
  return number.rstrip('0123456789').rstrip(f' ().-/\u00a0{_DASHES}')


def _count(number: str) -> int:
  return sum(character.isdigit() for character in number)


@functools.lru_cache(maxsize=4096)
def _is_valid(number: str, region: str | None) -> bool:
  library = _library()
  try:
    parsed = library.parse(number, region)
  except library.NumberParseException:
    return False
  if not library.is_valid_number(parsed):
    return False
  if region is None or _code(region) == 1:
    return True
  # In about as many groups as usual, so that bytes in pairs are none.
  usual = library.format_number(parsed, library.PhoneNumberFormat.NATIONAL)
  groups = [len(_PIECE.findall(form)) for form in (number, usual)]
  return abs(groups[0] - groups[1]) <= 1


@functools.cache
def _code(region: str) -> int:
  return _library().country_code_for_region(region)
