"""Decides if a period ends a sentence: Punkt (Kiss and Strunk, 2006).

A Punkt model has four tables for a language: abbreviations, pairs of words with
a period between them, words that often begin sentences, and whether words were
seen in upper or lower case at each position of a sentence. We use NLTK's
punkt_tab if it is installed, else punkt_english.json, which `train` made.

For English, we add abbreviations to either model: free training corpora contain
'e.g.' and 'Sgt.' too rarely to learn them.
"""

import functools
import importlib.resources
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence


def _words(text: str) -> frozenset[str]:
  return frozenset(text.split())


# These never end a sentence before a capital letter ('Mr. Brown'), even if the
# name that follows is also a word that begins sentences ('Gen. Still').
TITLES = _words("""
  adm amb asst atty brig capt cmdr col comdr cpl det dr drs fr gen gov hon insp
  lieut lt maj messrs mlle mme mmes mr mrs ms msgr ofc pfc pres prof profs pvt
  rep reps rev secy sen sens sgt sgts supt
""")
# These never end a sentence.
INTRODUCING = _words("""
  approx c.f ca cf e.g eg eqs esp excl figs i.e ie incl n.b p.s resp v viz vs
""")
# These never end a sentence before a number. Some are also ordinary words:
# 'No.', 'He sat.'
NUMBERED = _words("""
  apr art arts aug ch chap chaps cl cor dec def dim eq eqs ex feb fig figs jan
  jul jun lem mar no nos nov oct op p para paras pp prop pt ref refs sat sec
  secs sep sept sun tab thm ver vol vols wed
""")
# These end a sentence before a capital letter, but not before the name of a
# day, month or time zone ('5 p.m. Monday'): measures, times, 'etc.'
MEASURES = _words("""
  a.m al cc cm cu etc ft gal hr hrs kg km lb lbs mg mi min mins mm oz p.m prox
  qt sq tbsp tsp ult wks yd yds yrs
""")
# After a comma, these end a sentence before a capital letter: in the middle of
# a sentence a second comma would follow ('in Concord, N.H., he was').
APPOSED = _words("""
  ala ariz ark calif colo conn d.c del fla ga ill ind kan ky mass md mich minn
  miss mont n.c n.d n.h n.j n.m n.y neb nev okla ont ore pa penn r.i s.c s.d
  tenn tex va vt w.va wash wis wyo
  esq jr ph.d sr
""")
# These end a sentence only if the next word begins one. In this order:
# companies, places and addresses; people and degrees; books and law; time and
# measures.
ABBREVIATIONS = _words("""
  assn assoc ave bldg blvd bros co corp dept dist div hwy inc intl jct ltd mfg
  mt mts natl pkwy plc rd rte sq st ste univ ala ariz calif colo conn fla kan
  mich minn neb nev okla penn tenn tex wis wyo
  b.sc d.phil ed.d esq jr ll.b ll.d ll.m m.sc ph.d phd sr
  anon cit ed eds et ff ibid illus loc mss op.cit orig publ repr seq suppl trans
  fri inst misc mon tel temp thu thur thurs tue tues
""")
# Words that begin a sentence if they are capitalized after a period.
STARTERS = _words("""
  a all also although an and another any are as at because before both but by
  can could did do does during each either every few for from had has have he
  her here his how however i if in is it its just let many maybe more most much
  my neither never nobody nor not nothing now often on once only or our perhaps
  please several she should since so some soon such than that the their then
  there these they this those though through to today under unless until was we
  were what when where whether which while who whose why with within without
  would yes yet you your
""")

# Words before a Roman number; after others, 'I' is a pronoun: 'No. I did not.'
_PARTS = _words('art arts ch chap chaps fig figs sec secs vol vols')
_ROMAN = re.compile(r"[IVXLCivxlc]+\b(?!['’])")
_PRONOUN = re.compile(r'I\b')
_DATE = re.compile(
  r'(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|Mon|Tues?|Wed|Thu|Thurs|Fri|'
  r'Sat|Sun|January|February|March|April|May|June|July|August|September|'
  r'October|November|December|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec|'
  r'Eastern|Central|Mountain|Pacific|UTC|[A-Z]{1,3}T)\b'
)
# 'U.S', 'p.m', 'C.S', 'S.-T': every letter but the last has a period.
_ACRONYM = re.compile(r'(?:[^\W\d_]\.-?)+[^\W\d_]')
# An initial, and perhaps more of them: 'J', 'J.', 'J.R', 'W.E.B.'
_INITIALS = re.compile(r'[^\W\d_](?:\.-?[^\W\d_])*\.?')

_VOWEL = re.compile('[aeiouy]|[^a-z]')


class _Flags(dict):
  """The orthography flags of words; looking up a word does not add it."""

  def __missing__(self, word: str) -> int:
    return 0


class Punkt:
  """Decides if periods end sentences, by the tables of one language."""

  def __init__(self, name: str, params, *, english: bool = False):
    from nltk.tokenize import punkt

    if english:
      params.abbrev_types |= ABBREVIATIONS | INTRODUCING | MEASURES | TITLES
      params.sent_starters |= STARTERS
      # These are abbreviations only before a number, which `ends` handles.
      params.abbrev_types -= (
        NUMBERED - ABBREVIATIONS - INTRODUCING - MEASURES - TITLES
      )
    params.ortho_context = _Flags(params.ortho_context)
    self.name = name
    self.tokenizer = punkt.PunktSentenceTokenizer(params)
    self._titles = TITLES | INTRODUCING if english else frozenset()
    self._introducing = INTRODUCING if english else frozenset()
    self._numbered = NUMBERED if english else frozenset()
    self._measures = MEASURES if english else frozenset()
    self._apposed = APPOSED if english else frozenset()
    self._starters = params.sent_starters
    self._words = params.ortho_context.keys()
    # Punkt ends a sentence after any alphabetic word that is not in this set.
    self._special = params.abbrev_types | {a for a, _ in params.collocations}
    self._ask = functools.lru_cache(2**16)(
      self.tokenizer.text_contains_sentbreak
    )

  def punkt_ends(self, word: str, following: str) -> bool:
    """True if NLTK's Punkt ends a sentence at the '.' of 'word. following'."""
    if word.isalpha() and len(word) > 1 and word.lower() not in self._special:
      return True  # Most periods; this saves 20 us per call.
    return self._ask(f'{word}. {following}')

  def begins_sentence(self, word: str) -> bool:
    """True if Punkt ends a sentence before `word` in '... word'."""
    return self._ask(f'... {word}')

  def ends(self, before: str, word: str, following: str) -> bool:
    """True if the period of 'before word. following' ends a sentence.

    Follows Punkt, with our own rules for initials ('John F. Green'), acronyms
    ('J.P. Morgan'), titles, measures, places, words before numbers ('No. 5',
    but not 'No. I will not.') and unknown words that look abbreviated. An
    unknown word does so if it is short and followed by lower case ('vit.
    deficiency') or a number, or if it has no vowel and is followed by a capital
    ('Wm. Penn'). No sentence ends before lower case in a word without a vowel
    ('2 cc. of it').
    """
    lower, first = word.lower(), following[:1]
    if first.isdigit() and (lower in self._numbered or lower in self._special):
      return False
    if lower in self._numbered and not (len(word) == 1 and word.isupper()):
      return not (
        first.islower() or first in '§#$(' or _is_roman(lower, following)
      )
    if lower in self._introducing or (
      first.isupper() and lower in self._titles
    ):
      return False
    if lower in self._measures and word.islower() and first.isupper():
      return not _DATE.match(following)
    if before.endswith(',') and first.isupper() and lower in self._apposed:
      return True
    if (len(word) == 1 and word.isupper()) or _ACRONYM.fullmatch(word):
      return self._ends_with_initial(before, word, following)
    if first.islower() and lower == 'in' and before[-1:].isdigit():
      return False  # '6 in. wide'
    unknown = word.isalpha() and lower not in self._words
    if first.islower() and ((unknown and len(word) <= 6) or _is_cluster(word)):
      return False
    # Words are cut off before a vowel: 'vit. 3', but not 'vita. 3'.
    if unknown and first.isdigit() and lower[-1] not in 'aeiouy':
      return len(word) > 6
    if unknown and first.isupper() and _is_cluster(word):
      return self.begins_sentence(following)
    return self.punkt_ends(word, following)

  def _ends_with_initial(self, before: str, word: str, following: str) -> bool:
    first = following[:1]
    if first.islower() or first.isdigit():
      return False
    if len(before) == 2 and before[1] == '.' and len(word) == 1:
      # After two initials comes a name: 'W. O. Hunt'.
      return following.lower().rstrip(',:;') in self._starters
    if following[1:2] == '.' and _INITIALS.match(following):
      return False
    # A following non-letter may be a name too: 'Edwin M. <unk>'.
    name = first.isupper() or not first.isalpha()
    if name and (len(word) > 1 or not before or before[0].isupper()):
      return self.begins_sentence(following)
    return self.punkt_ends(word, following)


def _is_cluster(word: str) -> bool:
  """True for words without a vowel: 'cc', 'Wm', but not 'TV'."""
  return (
    word.isalpha() and not word.isupper() and not _VOWEL.search(word.lower())
  )


def _is_roman(word: str, following: str) -> bool:
  if _PRONOUN.match(following) and word not in _PARTS:
    return False
  return _ROMAN.match(following) is not None


@functools.cache
def load(language: str) -> Punkt:
  """Loads Punkt for a language: NLTK's model if it is installed, else ours.

  The language 'none' has no lists of words; only the rules for initials,
  numbers and upper or lower case remain.
  """
  nltk = _nltk()
  from nltk.tokenize import punkt

  if language == 'none':
    return Punkt('none: rules without a model', punkt.PunktParameters())
  english = language == 'english'
  try:
    path = nltk.data.find(f'tokenizers/punkt_tab/{language}/')
    params = punkt.load_punkt_params(path)
    ours = ', with abbreviations of ours' if english else ''
    name = f'NLTK punkt_tab ({language}), {path}{ours}'
    return Punkt(name, params, english=english)
  except LookupError:
    pass
  file = importlib.resources.files(__package__) / f'punkt_{language}.json'
  if not re.fullmatch(r'\w+', language) or not file.is_file():
    raise ValueError(
      f'{language!r}: there is no Punkt model for this language; expected '
      f'NLTK punkt_tab or punkt_{language}.json in rlpt_jax/data. Install the '
      'former with nltk.download("punkt_tab"), train one with '
      "rlpt_jax.data.punkt.train, or set language='none' to use rules only."
    )
  params = read(json.loads(file.read_text(encoding='utf-8')))
  name = f'punkt_{language}.json, shipped with rlpt_jax'
  return Punkt(name, params, english=english)


def _nltk():
  """Imports NLTK without SciPy, which we do not need and which loads slowly."""
  is_free = 'scipy' not in sys.modules
  if is_free:
    sys.modules['scipy'] = None  # Now importing it raises ImportError.
  try:
    import nltk
  finally:
    if is_free:
      del sys.modules['scipy']
  return nltk


def read(tables: dict):
  """Converts tables that `train` wrote to NLTK's PunktParameters."""
  from nltk.tokenize import punkt

  params = punkt.PunktParameters()
  params.abbrev_types = set(tables['abbreviations'])
  params.collocations = {tuple(pair) for pair in tables['collocations']}
  params.sent_starters = set(tables['sentence_starters'])
  for flags, words in tables['orthography'].items():
    params.ortho_context.update(dict.fromkeys(words.split(), int(flags)))
  return params


def train(
  texts: Iterable[str],
  output: str | pathlib.Path,
  *,
  sources: Sequence[str],
  min_count: int = 3,
) -> None:
  """Writes the tables that PunktTrainer learns from texts, in sorted order.

  sources: describes the texts and their licenses.
  min_count: rarer words, which would take most of the space, are left out.
  """
  from nltk.tokenize import punkt

  trainer = punkt.PunktTrainer()
  # With NLTK's default, in a corpus of a few megabytes, every rare word that is
  # followed by a period and a comma would count as an abbreviation.
  trainer.ABBREV_BACKOFF = 0
  for text in texts:
    trainer.train(text, finalize=False)
  trainer.freq_threshold(min_count, 1, 1, 1)
  params = trainer.get_params()
  words = {w: flags for w, flags in params.ortho_context.items() if w.isalpha()}
  orthography = {
    str(flags): ' '.join(sorted(w for w in words if words[w] == flags))
    for flags in sorted(set(words.values()) - {0})
  }
  lower_case = 2**4 | 2**5 | 2**6  # NLTK has a flag for each position.
  tables = {
    'sources': list(sources),
    'abbreviations': sorted(
      a for a in params.abbrev_types if re.fullmatch(r'[a-z]+(\.[a-z]+)*', a)
    ),
    'collocations': sorted(map(list, params.collocations)),
    # Leave out names, which are never in lower case: a small corpus has many
    # sentences that begin with the name of its subject.
    'sentence_starters': sorted(
      w for w in params.sent_starters if words.get(w, 0) & lower_case
    ),
    'orthography': orthography,
  }
  text = json.dumps(tables, indent=1, ensure_ascii=False)
  pathlib.Path(output).write_text(text + '\n', encoding='utf-8')
