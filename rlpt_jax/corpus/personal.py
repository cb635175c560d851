r"""Personal data: found by patterns and checks, and masked by placeholders.

  kind         placeholder  what is found
  e-mail       [EMAIL]      ann@x.org; ann [at] x [dot] org; ann at x dot org
  phone        [PHONE]      see phones.py
  IP address   [IP]         IPv4 and IPv6, unless private or a version number
  card         [CARD]       payment cards, by issuer, layout and checksum
  IBAN         [IBAN]       bank accounts, by country, length and checksum
  SSN          [SSN]        US social security numbers
  MAC address  [MAC]        b8:27:eb:12:fa:3c, with : or - or as 001a.2b3c.4d5e
  login        [LOGIN]      the user:password in https://user:password@x.org
  key          [KEY]        private keys, JSON web tokens, well-known API keys
  wallet       [WALLET]     Bitcoin addresses, by checksum

The rules are strict, as the corpus is to read well: what has a checksum must
fulfil it, and what has none must look like what it is. Not found are names,
street addresses, dates of birth, user names, national numbers other than the
American one, and disguises other than those of emails.py. Data that examples
have (ann@example.org, 192.0.2.1) are masked like all others.

`Mask` finds all of these. `MaskNames` finds names of people, with a model.
"""

import dataclasses
import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count
from rlpt_jax.corpus import checksums, documents, emails, phones
from rlpt_jax.corpus.documents import Document, Edit

Span = tuple[int, int]  # (start, end) in a text.


class Kind(NamedTuple):
  """A kind of personal data: how to find it, what replaces it."""

  placeholder: str
  find: Callable[[str], Iterator[Span]]


# Addresses of machines.

_IPV4 = re.compile(
  r'[0-9](?<![\w.-][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9]|/[0-9])'
)
_IPV6 = re.compile(
  r'[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:]|[./][0-9])'
)
_VERSIONED = re.compile(
  r'(?<![A-Za-z])(?i:v|ver|rev|revision|build|firmware|kernel|driver|software|'
  r'sections?|sec|chapters?|clauses?|tables?|figures?|figs?|paragraphs?|'
  r'articles?|rules?|requirements?|items?|steps?)[^\w\n]{1,4}\Z|'
  r'(?<![A-Za-z])(?i:versions?|release|upgrade|update|patch|downgrade)'
  r'[^\n]{1,40}\Z|[A-Za-z]/\Z|§ ?\Z|[=<>~]= ?[\'"]?\Z'
)
# These stand in examples for addresses like all others (RFC 5737, RFC 3849).
_DOCUMENTATION = [
  ipaddress.ip_network(network)
  for network in (
    '192.0.2.0/24', '198.51.100.0/24', '203.0.113.0/24', '2001:db8::/32',
  )
]  # fmt: skip


def _ip_addresses(text: str) -> Iterator[Span]:
  """Finds addresses of the public internet, and those that examples have.

  A network, such as 81.2.0.0/16, is none. Nor is what is more often the number
  of a version or section: what follows such a word, four numbers below 32 (as
  public servers of names have: 8.8.8.8), and 2.5.4.43 or 1.3.101.110, as the
  identifiers of objects begin.
  """
  for found in _IPV4.finditer(text):
    start = found.start()
    numbers = [int(number) for number in found[0].split('.')]
    if (
      max(numbers) > 31
      and (numbers[0] > 2 or numbers[1] > 39)
      and not _VERSIONED.search(text, max(0, start - 52), start)
      and _is_public(found[0])
    ):
      yield found.span()
  for found in _IPV6.finditer(text):
    address = found[0] if found[0].endswith('::') else found[0].rstrip(':')
    if address.count(':') > 1 and _is_public(address):
      yield found.start(), found.start() + len(address)


def _is_public(text: str) -> bool:
  try:
    address = ipaddress.ip_address(text)
  except ValueError:
    return False
  is_example = any(address in network for network in _DOCUMENTATION)
  return is_example or (address.is_global and not address.is_multicast)


# From the first separator, as few characters are one.
_MAC = re.compile(
  r'[:.-](?:'
  r'(?<=(?<![\w:-])[0-9A-Fa-f]{2}:)(?:[0-9A-Fa-f]{2}:){4}[0-9A-Fa-f]{2}|'
  r'(?<=(?<![\w:-])[0-9A-Fa-f]{2}-)(?:[0-9A-Fa-f]{2}-){4}[0-9A-Fa-f]{2}|'
  r'(?<=(?<![\w.])[0-9A-Fa-f]{4}\.)[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}'
  r')(?![\w:-])'
)
_NOBODY = {'f', '0'}  # Of ff:ff:ff:ff:ff:ff, which is everybody.


def _mac_addresses(text: str) -> Iterator[Span]:
  """Finds addresses with a letter: 04-11-23-35-42-49 may be of a lottery."""
  for found in _MAC.finditer(text):
    start = found.start() - (4 if found[0].startswith('.') else 2)
    letters = {x for x in text[start : found.end()].lower() if x.isalnum()}
    if letters & set('abcdef') and letters - _NOBODY:
      yield start, found.end()


# Numbers.

_CARD = re.compile(
  r'[2-6](?<![\w./+#-][2-6])(?:'
  r'[0-9]{3}(?:[ -]?[0-9]{4}){3}|[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5}'
  r')(?![\w]|[-.][0-9]|[ -][0-9]{4}(?![0-9/]))'
)
# First digits, by number of digits: Visa, Mastercard, Discover, JCB, UnionPay;
# American Express; Diners Club.
_ISSUERS = {
  16: re.compile(
    '4|5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720|6011|64[4-9]|65|62|'
    '352[89]|35[3-8]'
  ),
  15: re.compile('3[47]'),
  14: re.compile('3(?:0[0-5]|[689])'),
}
_IBAN = re.compile(r'[A-Z](?<!\w[A-Z])[A-Z][0-9]{2}(?:[ -]?[A-Z0-9]){11,29}')
_SEPARATORS = str.maketrans('', '', ' -')
_SSN = re.compile(
  r'[0-9](?<![\w./#$+-][0-9])(?:[0-9]{2}-[0-9]{2}-[0-9]{4}|'
  r'[0-9]{2} [0-9]{2} [0-9]{4}|[0-9]{8})(?!\w|[-./][0-9])'
)
_SOCIAL = re.compile(
  r'(?<!\w)(?i:ssn|ss#|social security|soc\.? ?sec)[^0-9\n]{0,30}\Z'
)
_PART = re.compile(
  r'(?<!\w)(?i:parts?|models?|serial|items?|catalog|orders?|invoice|kit|ref|'
  r'p/n|s/n|sku|no|nos|number|numbers|nr)[^0-9\n]{0,12}\Z'
)


def _cards(text: str) -> Iterator[Span]:
  """Finds numbers of 14 to 16 digits, together or in the groups of a card."""
  for found in _CARD.finditer(text):
    digits = found[0].translate(_SEPARATORS)
    issuer = _ISSUERS[len(digits)]
    if issuer.match(digits) and checksums.luhn(digits):
      yield found.span()


def _ibans(text: str) -> Iterator[Span]:
  for found in _IBAN.finditer(text):
    length = checksums.IBAN_LENGTHS.get(found[0][:2], 0)
    end = found.start()
    for place in range(found.start(), found.end()):
      length -= text[place] not in ' -'
      if length == 0:
        end = place + 1
        break
    number = text[found.start() : end].translate(_SEPARATORS)
    if checksums.iban(number) and not text[end : end + 1].isalnum():
      yield found.start(), end


def _social_security_numbers(text: str) -> Iterator[Span]:
  """Finds 123-45-6789 where its parts may be, and no word says a part number.

  Without hyphens, a word such as SSN must come before it.
  """
  for found in _SSN.finditer(text):
    start = found.start()
    digits = found[0].translate(_SEPARATORS)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in ('000', '666') or area[0] == '9' or group == '00':
      continue
    if serial == '0000':
      continue
    if _SOCIAL.search(text, max(0, start - 50), start) or (
      '-' in found[0] and not _PART.search(text, max(0, start - 24), start)
    ):
      yield found.span()


# Secrets.

_LOGIN = re.compile(r'://([^\s/@:?#{}<>\[]{1,64}:[^\s/@{}<>\[]{1,64})@')
_TEMPLATE = re.compile('(?i:user|username|userid|login|%s):')
_PRIVATE_KEY = re.compile(
  r'-----(BEGIN|END) [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----'
)
_KEY_LENGTHS = range(100, 16_000)
_KEY = re.compile(
  r'(?<![\w-])(?:'
  r'A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|'
  r'github_pat_[A-Za-z0-9_]{22,255}|glpat-[\w-]{20,64}|'
  r'sk-(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{20,255}|'
  r'[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}|'
  r'xox[abeoprs]-[A-Za-z0-9-]{10,255}|AIza[\w-]{35}|hf_[A-Za-z0-9]{34,40}|'
  r'npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,255}|SG\.[\w-]{22}\.[\w-]{43}|'
  r'eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}'
  r')(?![\w-])'
)
_BASE58 = re.compile(
  r'[13](?<![\w/][13])[1-9A-HJ-NP-Za-km-z]{25,34}(?![A-Za-z0-9])'
)
_BECH32 = re.compile(r'bc1(?<!\wbc1)[02-9ac-hj-np-z]{11,71}(?![A-Za-z0-9])')


def _logins(text: str) -> Iterator[Span]:
  for found in _LOGIN.finditer(text):
    if not _TEMPLATE.match(found[1]):
      yield found.span(1)


def _keys(text: str) -> Iterator[Span]:
  """Finds keys of known forms; a private key with its two lines around it."""
  begin = None
  for line in _PRIVATE_KEY.finditer(text):
    if line[1] == 'BEGIN':
      begin = line.start()
    elif begin is not None and line.end() - begin in _KEY_LENGTHS:
      yield begin, line.end()
      begin = None
  for found in _KEY.finditer(text):
    yield found.span()


def _wallets(text: str) -> Iterator[Span]:
  for found in _BASE58.finditer(text):
    if checksums.base58(found[0]):
      yield found.span()
  for found in _BECH32.finditer(text):
    if checksums.bech32(found[0]):
      yield found.span()


# An earlier kind wins if two finds begin at the same place.
KINDS = {
  'key': Kind('[KEY]', _keys),
  'login': Kind('[LOGIN]', _logins),
  'e-mail': Kind('[EMAIL]', emails.find),
  'IBAN': Kind('[IBAN]', _ibans),
  'card': Kind('[CARD]', _cards),
  'SSN': Kind('[SSN]', _social_security_numbers),
  'IP address': Kind('[IP]', _ip_addresses),
  'MAC address': Kind('[MAC]', _mac_addresses),
  'wallet': Kind('[WALLET]', _wallets),
  'phone': Kind('[PHONE]', phones.find),
}


# What is shown.


def partly(find: str) -> str:
  """Hides letters and digits after the first two: 'an•@•.•••'."""
  hidden = ('•' if letter.isalnum() else letter for letter in find[2:])
  return find[:2] + ''.join(hidden)


def wholly(find: str) -> str:
  """Returns the find as it is, which is personal data."""
  return find


# Where to look.

# All that is found has one of these in its line. One search of a text for them
# takes a fifth of the time of a search for each kind.
_HINT = re.compile(
  r'[0-9@:.\[({_-](?:'
  r'(?<=[0-9])(?:(?:[ ().\-/\u00a0\u2010\u2011\u2013]{0,3}[0-9]){6}|'
  r'[0-9]{0,2}(?:\.[0-9]{1,3}){3}|'
  r'[0-9A-Fa-f]{3}:[0-9A-Fa-f:]|[1-9A-HJ-NP-Za-km-z]{25})|'
  r'(?<=@)[A-Za-z0-9À-ÿ-]{1,63}\.|'
  r'(?<=:)(?://[^\s/@:]{1,64}:|[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}:)|'
  r'(?<=-)[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-|'
  r'(?<=\.)[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}|'
  r'(?<=[\[({]) ?(?:@|(?i:at)) ?[\])}]|'
  r'(?<=[_-])(?=[a-z-]{0,12}[A-Z0-9])[A-Za-z0-9_-]{10}'
  r')'
)
# If one of these is in a text, all its lines are searched.
_RARE = (
  ' dot com', ' dot org', ' dot net', ' dot edu', ' dot gov', ' DOT ', 'bc1',
  'PRIVATE KEY', 'AKIA', 'ASIA', 'AIza', 'SG.', 'eyJ',
)  # fmt: skip


def _lines(text: str) -> Iterator[Span]:
  """Yields (start, end) of the lines that may have personal data."""
  if any(rare in text for rare in _RARE):
    yield 0, len(text)
    return
  place = 0
  while hint := _HINT.search(text, place):
    start = text.rfind('\n', place, hint.start()) + 1 or place
    place = text.find('\n', hint.end())
    place = len(text) if place < 0 else place
    yield start, place


# The stages.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
  """Replaces personal data by placeholders: one Edit per find.

  kinds: which kinds to look for; by default, all.
  regions: whose phone numbers are found without a country's +44. ISO 3166.
  placeholders: what replaces a kind, instead of the placeholder above.
  show: `before` of an Edit, which is shown on pages and in files of samples,
    must not repeat what is masked. So it is the find partly hidden, as long as
    the find. With `wholly`, it is the find itself, for those who must judge it.
  """

  kinds: tuple[str, ...] = tuple(KINDS)
  regions: tuple[str, ...] = ('US', 'GB')
  placeholders: Mapping[str, str] = dataclasses.field(default_factory=dict)
  show: Callable[[str], str] = partly

  def __post_init__(self):
    checks.check_fields(self)
    for name in ('kinds', 'placeholders'):
      if unknown := [kind for kind in getattr(self, name) if kind not in KINDS]:
        raise checks.setting_error(
          type(self), name, unknown[0], f'one of {", ".join(KINDS)}'
        )
    if 'phone' in self.kinds and (unknown := phones.unknown(self.regions)):
      raise checks.setting_error(
        type(self), 'regions', unknown[0], "countries such as 'US' or 'GB'"
      )

  def __call__(self, document: Document) -> Document:
    edits = []
    for kind, start, end in self.finds(document.text):
      placeholder = self.placeholders.get(kind, KINDS[kind].placeholder)
      edits.append(
        Edit(kind, start, self.show(document.text[start:end]), placeholder)
      )
    return documents.edited(document, edits) if edits else document

  def finds(self, text: str) -> list[tuple[str, int, int]]:
    """Returns (kind, start, end) of the finds, in order and apart."""
    found = []
    for first, last in _lines(text):
      line = text[first:last]
      for rank, (kind, (_, find)) in enumerate(KINDS.items()):
        if kind in self.kinds:
          if kind == 'phone':  # The only one that has a setting.
            find = functools.partial(find, regions=tuple(self.regions))
          found += [
            (first + start, rank, first + end, kind)
            for start, end in find(line)
          ]
    kept, last = [], 0
    for start, _, end, kind in sorted(found):
      if start >= last:
        kept.append((kind, start, end))
        last = end
    return kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskNames:
  """Replaces names of people, as a model of spaCy finds them: Edits of 'name'.

  Neither spaCy nor a model comes with our extras. A model finds most names and
  takes some other words for names; measure it on your texts.

  model: its name, or the folder that holds it.
  labels: what the model calls a person; models of other languages say 'PER'.
  piece: texts are read in pieces of about so many characters, which is what
    the memory of the model depends on.
  """

  model: str = 'en_core_web_sm'
  labels: tuple[str, ...] = ('PERSON', 'PER')
  placeholder: str = '[NAME]'
  show: Callable[[str], str] = partly
  piece: Count = 50_000

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, document: Document) -> Document:
    edits, text = [], document.text
    read = _model(self.model)
    for start, end in _pieces(text, self.piece):
      # spaCy cannot encode lone surrogates: a ? stands for each.
      whole = text[start:end].encode(errors='replace').decode()
      for name in read(whole).ents:
        if name.label_ in self.labels and name.text.strip():
          edits.append(
            Edit(
              'name',
              start + name.start_char,
              self.show(text[start + name.start_char : start + name.end_char]),
              self.placeholder,
            )
          )
    return documents.edited(document, edits) if edits else document


def _pieces(text: str, size: int) -> Iterator[Span]:
  """Yields (start, end) of pieces, which end at white space where they can."""
  start = 0
  while start < len(text):
    end = min(start + size, len(text))
    if end < len(text):
      spaces = (text.rfind(space, start, end) for space in '\n ')
      end = next((place + 1 for place in spaces if place > start), end)
    yield start, end
    start = end


@functools.cache
def _model(name: str) -> Callable:
  """Loads a model once per process."""
  try:
    import spacy

    return spacy.load(name, exclude=['tagger', 'parser', 'lemmatizer'])
  except (ImportError, OSError) as error:
    raise ValueError(
      f'personal.MaskNames.model={name!r}: needs `pip install spacy` and '
      f'`python -m spacy download {name}`, or the folder of a model.'
    ) from error
