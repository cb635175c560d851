"""Splits text into segments, given by their end offsets; the last is len(text).

Segments tile the text, so joining them restores it; none is blank unless the
text is. In the white space between two segments, everything up to the last line
break belongs to the first, and the blanks after it belong to the second. BPE
tokens begin with a blank (' The'), so the tokens of the segments, joined, are
the tokens of the text.

Sentences end

  at the end of a block: `rlpt_jax.data.blocks` finds paragraphs, headings,
    lists, tables, code and formulas
  at '.' if Punkt decides so, with the additional rules of `rlpt_jax.data.punkt`
  at '...' before a capital letter, but not before 'I', except at '....'
  at '?', '!' and marks of other scripts, unless a comma or lower case follows
    ('Yahoo! said'); lower case may follow if the sentence itself began in lower
    case, as in chats
  at 。！？ and similar marks, with no blank needed after them

A sentence includes the closing quotes, brackets, emphasis, notes ('[12]') and
smileys that follow its mark. '"Go!" he said.' is one sentence, and so is '"Go!"
Ann said.' In tokenized corpora (' . " ') a quote counts as closing if one is
open in the paragraph. No sentence ends in a label that begins a block ('Section
12.') or a sentence.
"""

import bisect
import functools
import math
import re

from rlpt_jax.core import tokenizer as tokenizers
from rlpt_jax.core.checks import Count
from rlpt_jax.data import blocks, punkt

_CJK = (
  r'\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff'
  r'\U00020000-\U0003ffff'
)
WORD = rf'(?:[{_CJK}]|[^\W_{_CJK}]+)'
_WORD = re.compile(WORD)

# All quantifiers that could backtrack are possessive, and a mark matches no
# matter what follows it, so matching takes linear time on any text.
_MARK = re.compile(
  r"""
  (?P<mark> \.(?:[ ]\.)++ | [.?!…⋯‽؟۔।॥։።፧。！？｡．]++ )
  (?P<close> (?: ["'”’»›)\]}*_`~」』）】》〉｣〕]++ | \[[\w ,–-]{1,24}\] )*+ )
  (?: \s?[:;]-?[()DP](?!\w) | \s?[\u2600-\u27bf\U0001f300-\U0001faff]\ufe0f? )*+
  (?P<gap> \s*+ )""",
  re.VERBOSE,
)
_SPACED_CLOSE = re.compile(
  r"""(?P<quote>["'”’]|'')?(?:[ ]?[)\]}])*+(?P<gap>\s++)"""
)
_FOLLOWING = re.compile(
  r'(?P<open>[\s>"\'“”‘’«»„‚(\[{¿¡*_`~]*+)(?P<dash>[-–—]*+)\s*+(?P<word>\S{0,30})'
)
_LABEL = re.compile(
  r"""[\s>*_]*+ (?:
    [(\[]? (?:(?:[A-Z][A-Za-z]*+\.?|§+)[ ])?\d{1,3}(?:\.\d{1,3})*+[a-z]?
    | (?i:(?:act|appendix|article|book|chapter|part|scene|section|title|volume)
        [ ][ivxlc]++)
    | [(\[]? (?:[A-Za-z]|[ivxIVX]++) )
  [.):]++\]?(?=\s)""",
  re.VERBOSE,
)
# The number of an item inside a block: 'Mix it. 2. Bake it. Step 3. Eat it.'
_ITEM = re.compile(
  r"""\s{0,9}["“(]?(?i:(?:act|amendment|article|chapter|item|part|question|rule|
  scene|section|step|title|volume)[ ](?:\d{1,3}|[ivxlc]{1,7})|\d{1,2})""",
  re.VERBOSE,
)
# Who said what is quoted before: '"Go!" Ann Lee cried.', but not '"Go!" She
# cried.'. Whoever answers after '?' is somebody else.
_SPEAKER = re.compile(
  r"""(?:I|(?:(?:Mr|Mrs|Ms|Dr)\.[ ])?
  (?!(?:All|And|But|Every\w++|He|It|No\w*+|One|She|Some\w*+|The[ny]?|This|We|
    What|Who|You)\s)
  [A-Z][\w'’]{1,20}(?:[ ][A-Z][\w'’]{1,20})?)
  \s(?:(?P<answer>answered|replied)
    | added|asked|bellowed|called|cried|demanded|exclaimed|gasped|growled
    | inquired|muttered|remarked|repeated|roared|said|screamed|shouted|sighed
    | snapped|spat|thought|told|went\son|whispered|yelled
  )\b(?!\s(?:no|nothing|that|yes)\b)
  """,
  re.VERBOSE,
)
_QUOTES = frozenset('"\'”’»›」』')
_LETTER = re.compile(r'[^\W\d_]')
_SPACED_WORD = re.compile(r'\S++(?P<gap>\s*+)')
# Particles that continue a sentence after a quotation: 「行け。」と言った。
_PARTICLES = frozenset('とってがをにのはもでやへ')


def sentences(text: str, *, language: str = 'english') -> list[int]:
  """Returns the end offset of each sentence; the last is len(text)."""
  model = punkt.load(language)
  formulas = blocks.formulas(text)
  ends = []
  for start, end, whole in blocks.blocks(text):
    if not whole:
      ends += _ends_inside(text, start, end, model, formulas)
    ends.append(end)
  return ends


def paragraphs(text: str) -> list[int]:
  """Returns the end offset of each block: paragraph, heading, list item, ..."""
  return [block.end for block in blocks.blocks(text)]


def model_name(language: str) -> str:
  """Returns the name of the Punkt model that `sentences` uses."""
  return punkt.load(language).name


def num_words(text: str) -> int:
  """Counts runs of letters and digits; each CJK character counts as one."""
  return len(_WORD.findall(text))


def _ends_inside(text, start, end, model, formulas) -> list[int]:
  """Returns where sentences end inside text[start:end], not counting `end`."""
  ends, sentence = [], start
  counted, in_quote = start, False
  label = _LABEL.match(text, start, end)
  for match in _MARK.finditer(text, label.end() if label else start, end):
    mark, gap, stop = match.start(), match.start('gap'), match.end()
    if stop == end:
      break
    if gap == stop and text[stop] < '\u2e80' and text[mark] < '\u2e80':
      continue  # 'main.py', '3.14'
    if formulas and _is_inside(formulas, mark):
      continue
    if text[mark - 1 : mark].isspace() and gap < stop:
      # Tokenized text has blanks on both sides of a quote, so we can only tell
      # that it closes by counting the quotes before it.
      in_quote ^= text.count('"', counted, stop) % 2 == 1
      counted = stop
      close = _SPACED_CLOSE.match(text, stop, end)
      if close and _closes(text, close['quote'], in_quote, sentence, stop):
        gap, stop = close.start('gap'), close.end()
        if stop == end:
          break
    following = _FOLLOWING.match(text, stop, end)
    if following.end() == end and not following['word']:
      break
    if _is_end(text, sentence, match, following, model):
      sentence = text.rfind('\n', gap, stop) + 1 or gap
      ends.append(sentence)
  return ends


def _is_inside(formulas, position: int) -> bool:
  i = bisect.bisect_right(formulas, (position, math.inf)) - 1
  return i >= 0 and position < formulas[i][1]


def _closes(text, quote, in_quote: bool, sentence: int, stop: int) -> bool:
  if quote == '"':
    return in_quote
  if quote == "'":
    # '`' opens a quotation, so "'" closes it. '``' is another quotation.
    opened = text.rfind('` ', max(0, stop - 1000), stop)
    if opened > text.rfind(" ' ", max(0, stop - 1000), stop):
      return text[opened - 1 : opened] != '`'
    # Many of these are apostrophes, which would make the count wrong: count
    # only within the sentence, and not far back.
    before = text.count(" ' ", max(sentence, stop - 300), stop)
    return (before + text.startswith("' ", sentence)) % 2 == 1
  return True


def _is_end(text, sentence: int, match, following, model) -> bool:
  """True if a sentence ends at `match`, a match of _MARK."""
  mark, close, word = match['mark'], match['close'], following['word']
  start, first = match.start(), word[:1]
  if mark[0] >= '\u3000' or _is_cjk(text, start, match.end('close')):
    return _is_cjk_end(text, match)
  if first in ',;:)' or not (following['open'] or word.strip('.?!…')):
    return False  # The sentence goes on; a later mark may end it.
  quoted = not _QUOTES.isdisjoint(close)
  if following['dash'] and (quoted or not first.isupper()):
    # A dash with a blank before it and none after it is an option: '--help'.
    glued = following.end('dash') == following.start('word')
    if quoted or mark != '.' or not (glued and match['gap']):
      return False
  if first.islower() and close:
    return False
  informal = first.islower() and _is_informal(text, sentence, start)
  if mark == '.':
    if start == sentence or text[start - 1].isspace():
      return informal or not first.islower()  # ' . ' is no abbreviation.
    before, last_word = _words_before(text, sentence, start)
    if start - sentence < 30 and _ITEM.fullmatch(text, sentence, start):
      return False
    if informal:
      return model.punkt_ends(last_word, word)
    return model.ends(before, last_word, word)
  if mark[0] in '.…⋯' and '?' not in mark and '!' not in mark:
    return _ellipsis_ends(text, sentence, start, mark, word)
  if first.islower():
    return informal
  if first.isupper() and _is_speaker(text, mark, following):
    return False
  return '(' not in following['open'] or first.isupper()


def _is_speaker(text, mark: str, following) -> bool:
  """True if a quotation ends at `mark` and the name of who said it follows."""
  before = text[max(0, following.start() - 3) : following.start()].rstrip()
  if before[-1:] not in _QUOTES or following['open']:
    return False
  speaker = _SPEAKER.match(text, following.start())
  return bool(speaker) and not (speaker['answer'] and '?' in mark)


def _words_before(text, sentence: int, period: int) -> tuple[str, str]:
  """Returns the last two words before a period; '' for a missing word."""
  words = text[max(sentence, period - 60) : period].rsplit(None, 2)
  *_, before, word = '', '', *words
  return before, word.lstrip('"\'“‘«([{*_`')


def _ellipsis_ends(text, sentence: int, start: int, mark, word: str) -> bool:
  before = text[max(sentence, start - 8) : start].strip()
  if not before.strip('"\'“‘') or before[-1] in '([':
    return False  # The ellipsis marks an omission: '" ... Later "', '[...]'
  if mark.count('.') == 2:  # A full stop after an abbreviation: 'Jr..', 'Jr. .'
    return not word[0].islower()
  pronoun = word[0] == 'I' and not word[1:2].isalpha()
  # Of four periods, one is the full stop.
  return word[0].isupper() and (not pronoun or mark.count('.') > 3)


def _is_informal(text, sentence: int, mark: int) -> bool:
  """True if the sentence begins in lower case, so that the next one may too."""
  letter = _LETTER.search(text, sentence, min(mark, sentence + 100))
  return letter is not None and letter[0].islower()


def _is_cjk(text, start: int, end: int) -> bool:
  """True if a mark at `start` is between CJK characters, as in 对吗?对."""
  after = text[end : end + 1]
  return start > 0 and text[start - 1] >= '\u2e80' and after >= '\u2e80'


def _is_cjk_end(text, match) -> bool:
  mark, close = match['mark'], match['close']
  after = text[match.end() : match.end() + 1]
  if after in '，、；：,;:' or mark == '.':
    return False
  if close[-1:] in '」』' and close and after in _PARTICLES:
    return False
  # '…' is a pause unless a quotation ends there; '……' ends a sentence.
  if mark in '…⋯':
    return bool(close)
  return mark != '．' or not after.isdigit()


def tokens(
  text: str, *, tokenizer: tokenizers.Tokenizer, size: Count
) -> list[int]:
  """Returns the end offsets of pieces of at most `size` tokens.

  Pieces end between words; a word of more than `size` tokens is split. A single
  character is never split, and white space is never a piece by itself, even if
  the piece then exceeds `size`.
  """
  if size < 1:
    raise ValueError(f'size={size}: expected at least one token per piece.')
  ends, start, total = [], 0, 0
  for word_start, word_end in _words(text):
    count = _count(tokenizer, text[word_start:word_end])
    if total and total + count > size:
      ends.append(word_start)
      start, total = word_start, 0
    total += count
    if total > size:  # The piece is a single word.
      cuts = _cut_word(text, word_start, word_end, tokenizer, size)
      ends += cuts
      start = cuts[-1] if cuts else start
      total = _count(tokenizer, text[start:word_end])
  return [*ends, len(text)] if text else []


def _words(text: str):
  """Yields each word's span, with blanks before and line breaks after it."""
  start = 0
  for match in _SPACED_WORD.finditer(text):
    gap = match.start('gap')
    end = text.rfind('\n', gap, match.end()) + 1 or gap
    if match.end() == len(text):
      end = len(text)
    yield start, end
    start = end


def _count(tokenizer: tokenizers.Tokenizer, text: str) -> int:
  if len(text) > 32:  # Do not cache base64 data or text without blanks.
    return len(tokenizer.encode(text))
  return _count_word(tokenizer, text)


@functools.lru_cache(2**17)
def _count_word(tokenizer: tokenizers.Tokenizer, text: str) -> int:
  return len(tokenizer.encode(text))


def _cut_word(text, start: int, end: int, tokenizer, size: int) -> list[int]:
  """Returns the offsets at which to split a word that is too long."""
  cuts = []
  word = text[start:end]
  # Blanks around a word stay with its first and last character.
  least = len(word) - len(word.lstrip()) + 1
  last = start + len(word.rstrip()) - 1
  while True:
    length = least + 4 * size
    while length > least:
      count = len(tokenizer.encode(text[start : min(start + length, end)]))
      if count <= size:
        break
      length = max(least, min(length - 1, length * size // count))
    start, least = start + length, 1
    if start > last:
      return cuts
    cuts.append(start)
