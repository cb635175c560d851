"""Finds e-mail addresses in a text, also some that are written to hide them.

  ann@x.org
  ann [at] x [dot] org, ann(at)x.org   brackets of any kind
  ann AT x DOT org
  ann at x dot org                     with com, org, net, edu or gov

No other disguise is found, such as `ann@nospam.x`, an image, or a sentence.
"""

import re
import string
from collections.abc import Iterator

Span = tuple[int, int]

# Characters before the @. Others are legal, and hardly ever used.
_LOCAL = (
  f"{string.ascii_letters}{string.digits}._%+'-"
  + ''.join(map(chr, range(0xC0, 0x100)))  # À to ÿ.
)
_LABEL = r'[A-Za-z0-9À-ÿ-]{1,63}'
_DOT = r'(?:\.| ?[\[({] ?(?i:dot) ?[\])}] ?)'
_DOMAIN = re.compile(rf'@(?P<host>{_LABEL}(?:\.{_LABEL}){{1,8}})')
_BRACKETED = re.compile(
  r'[\[({] ?(?:@|(?i:at)) ?[\])}] ?'
  rf'(?P<host>{_LABEL}(?:{_DOT}{_LABEL}){{1,8}})'
)
_CAPITALS = re.compile(rf'AT (?P<host>{_LABEL}(?: DOT {_LABEL}){{1,8}})')
_NAME = re.compile(_LABEL)
_SPELLED = re.compile(r' dot (?:com|org|net|edu|gov)\b')
_BEFORE_SPELLED = re.compile(
  r'(?<![A-Za-z0-9._+-])[A-Za-z0-9._+-]{2,40} at (?P<domain>[a-z0-9-]{2,40})\Z'
)
_ARTICLES = {'the', 'an', 'this', 'that', 'our', 'my', 'your', 'some', 'any'}
_TOP = frozenset(
  """
  com org net edu gov mil int info biz name pro aero coop museum jobs mobi
  travel tel cat asia app dev online site xyz shop store tech blog cloud email
  academy agency art bank bar berlin bike cafe camp capital care center chat
  church city clinic club codes coffee community company computer consulting
  cool design digital directory education energy engineering events exchange
  expert express family farm finance fit foundation fun fund fyi gallery games
  global group guru health help host hotel house inc institute international
  land law legal life link live llc london love ltd marketing media men money
  nyc network news ngo one ong page paris partners photo photography photos
  pictures place plus press productions properties pub radio recipes rent
  repair report restaurant rocks run sale school science scot services show
  social software solutions space studio style support systems team tips today
  tools top tours town toys trade training university vegas video vip wales
  watch website wiki win wine work works world zone arpa example
  """.split()
)


def find(text: str) -> Iterator[Span]:
  """Finds addresses whose domain ends in a country or a known top-level name.

  So `w@x.T`, logo@2x.png and img@sha256 are none. Nor is git@github.com, which
  is the same for everybody.
  """
  patterns = [_BRACKETED]
  patterns += [_DOMAIN] if '@' in text else []
  patterns += [_CAPITALS] if ' DOT ' in text else []
  for pattern in patterns:
    for found in pattern.finditer(text):
      is_spaced = pattern is not _DOMAIN and text[found.start() - 1] == ' '
      at = found.start() - is_spaced
      head = text[max(0, at - 64) : at]
      local = head[len(head.rstrip(_LOCAL)) :].lstrip("'.-%")
      end = _end_of_host(text, found)
      if local not in ('', 'git', 'hg', 'svn') and end:
        yield at - len(local), end
  for found in _SPELLED.finditer(text):
    before = _BEFORE_SPELLED.search(
      text, max(0, found.start() - 90), found.start()
    )
    if before and before['domain'] not in _ARTICLES:
      yield before.start(), found.end()


def _end_of_host(text: str, found: re.Match) -> int | None:
  """Returns where its last top-level name ends, or None if it has none."""
  names = [
    name
    for name in _NAME.finditer(text, *found.span('host'))
    if name[0].lower() != 'dot'
  ]
  for name in reversed(names[1:]):
    top = name[0].lower()
    if (len(top) == 2 and top.isalpha()) or top in _TOP:
      is_call = text.startswith('(', name.end())  # A method: a@b.to(c).
      return None if is_call else name.end()
  return None
