r"""Rules about words, lines and repetition: those of Gopher, C4 and FineWeb.

  gopher_quality      2112.11446, appendix A.1.1
  gopher_repetition   2112.11446, appendix A.1.1 and table A1
  c4_quality          1910.10683, section 2.2: it also removes lines
  fineweb_quality     2406.17557, section 3.6

These are datatrove's filters, with its thresholds and formulas. Only the words
are ours: datatrove splits English with spaCy, which takes several times as
long. `words` splits alike: on paragraphs of Wikipedia, problems of GSM8K and
descriptions of packages, at most 0.6% of documents get another verdict. The
words of a document are split once for all filters that follow each other.

The stop words of Gopher, the sentences of C4 and `words` are English. Without
spaces, as in Chinese, whole sentences are words.
"""

import functools
import importlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Natural, NonNegative, Share
from rlpt_jax.corpus import documents
from rlpt_jax.corpus.documents import Document, Dropped, Edit, Outcome
from rlpt_jax.data import segment

# Punctuation at the ends of a word is split off, mark by mark, but not these.
_KEPT = r'[-./@|~^\\+]'
_CONTRACTED = r"['’](?:s|re|ve|ll|d|m|S)\b"
_NOT = r"n['’]t\b"  # "don't" is 'do' and "n't".
_LETTERS = rf'(?:(?!{_NOT})[^\W_])++'
_WORD = re.compile(
  rf"""
    (?:https?://|www\.)\S*[^\W_]/?                       # Addresses are whole.
  | [\w.+-]{{1,64}}+@[\w-]{{1,64}}\.[\w.-]{{0,64}}\w
  | (?:Mr|Mrs|Ms|Dr|Prof|Rev|St|Ltd|Inc|Co|Corp|Bros|Jr|Sr|Gen|Gov|Adm|vs|etc
      |e\.g|i\.e|a\.m|p\.m)\.(?!\w)
  | \.{{2,}}+ | … | @[-.,]@                            # '@,@': WikiText.
  | {_CONTRACTED} | {_NOT}
  | (?:(?<![^\W_]){_KEPT}++)?+ {_LETTERS}
    (?:                                                  # Inside words:
      (?! (?<=[^\W_])(?:--?-?|[–—~])(?=[^\W\d_])         #   well-known
        | (?<=[^\W\d_]),(?=[^\W\d_])                     #   this,that
        | [:<>=/](?=[^\W\d_])                            #   either/or
        | (?<=[a-z])\.(?=[A-Z])                          #   end.Start
        | (?<=\d)[+\-*^](?=[\d-])                        #   3-4
        | \.{{2,}} | …
      )
      (?:(?!{_CONTRACTED})(?:[^\w\s]|_))++ {_LETTERS}
    )*+
    (?: (?<![^\W_][^\W_])(?<=[A-Z])\. | (?<=\.[A-Z])\.(?!\w)  # U.S.
      | [-/@|~^\\+=]++(?!\w) )?+
  | {_KEPT}++
  | [^\w\s] | _
  """,
  re.VERBOSE,
)

# datatrove's name of a rule -> what a document that breaks it has.
GOPHER_QUALITY = {
  'gopher_short_doc': 'fewer than {min_words:,} words',
  'gopher_long_doc': 'more than {max_words:,} words',
  'gopher_below_avg_threshold': 'words of less than {min_word_length} letters',
  'gopher_above_avg_threshold': 'words of more than {max_word_length} letters',
  'gopher_too_many_hashes': 'more than {max_symbols} # per word',
  'gopher_too_many_ellipsis': 'more than {max_symbols} ellipses per word',
  'gopher_too_many_bullets': 'bullets in more than {max_bullets} of lines',
  'gopher_too_many_end_ellipsis': (
    'ellipses at the end of more than {max_ellipses} of lines'
  ),
  'gopher_below_alpha_threshold': 'letters in less than {min_letters} of words',
  'gopher_enough_stop_words': 'fewer than {min_stop_words} stop words',
}
GOPHER_REPETITION = {
  'empty': 'no text',
  'dup_para_frac': 'repeated paragraphs',
  'dup_para_char_frac': 'characters in repeated paragraphs',
  'dup_line_frac': 'repeated lines',
  'dup_line_char_frac': 'characters in repeated lines',
}
FINEWEB_QUALITY = {
  'empty': 'no text',
  'line_punct_ratio': 'final punctuation in less than {min_ended} of lines',
  'short_line_ratio': 'short lines, more than {max_short}',
  'char_dup_ratio': 'characters in repeated lines, more than {max_repeated}',
  'list_ratio': 'more than {max_breaks} line breaks per word',
}
C4_QUALITY = {
  'lorem_ipsum': 'lorem ipsum',
  'curly_bracket': 'curly bracket',
  'too_few_sentences': 'fewer than {min_sentences} sentences left',
}
C4_LINES = {
  'line-filter-too_long_word': 'long word',
  'line-filter-no_terminal_punc': 'line without final punctuation',
  'line-filter-too_few_words': 'line of few words',
  'line-filter-javascript': 'line about JavaScript',
  'line-filter-policy': 'line about cookies or terms of use',
}


def length(
  document: Document, *, min_words: Natural = 50, max_words: Count = 100_000
) -> Outcome:
  """Drops documents with too few or too many words; the limits are Gopher's.

  Words are runs of letters and digits; each CJK character counts as one.
  """
  checks.check_arguments(length, locals())
  number = segment.num_words(document.text)
  if number < min_words:
    return Dropped(f'fewer than {min_words} words', f'{number:,} words')
  if number > max_words:
    return Dropped(f'more than {max_words} words', f'{number:,} words')
  return document


def gopher_quality(
  document: Document,
  *,
  min_words: Natural = 50,
  max_words: Natural = 100_000,
  min_word_length: NonNegative = 3,
  max_word_length: NonNegative = 10,
  max_symbols: NonNegative = 0.1,
  max_bullets: Share = 0.9,
  max_ellipses: Share = 0.3,
  min_letters: Share = 0.8,
  min_stop_words: Natural = 2,
) -> Outcome:
  """Drops documents that are no prose. A limit of 0 turns its rule off.

  min_words, max_words: words of punctuation alone do not count.
  min_word_length, max_word_length: the range of their mean length.
  max_symbols: the most '#', and the most ellipses, per word.
  max_bullets, max_ellipses: the largest share of lines that begin with a
    bullet, and that end with an ellipsis.
  min_letters: the least share of words with a letter. Punctuation marks are
    words without one: dense formulas and tables fall below 0.8.
  min_stop_words: how many of the, be, to, of, and, that, have, with must occur.
  """
  options = {k: v for k, v in locals().items() if k != 'document'}
  checks.check_arguments(gopher_quality, options)
  if not any(c.isalnum() for c in document.text):
    return Dropped('Gopher quality: no words')
  found = _filter(
    'gopher_quality_filter.GopherQualityFilter',
    min_doc_words=min_words, max_doc_words=max_words,
    min_avg_word_length=min_word_length, max_avg_word_length=max_word_length,
    max_symbol_word_ratio=max_symbols, max_bullet_lines_ratio=max_bullets,
    max_ellipsis_lines_ratio=max_ellipses,
    max_non_alpha_words_ratio=min_letters, min_stop_words=min_stop_words,
  )  # fmt: skip
  return _outcome(found, document, 'Gopher quality', GOPHER_QUALITY, options)


def gopher_repetition(
  document: Document,
  *,
  lines: Share = 0.3,
  line_characters: Share = 0.2,
  paragraphs: Share = 0.3,
  paragraph_characters: Share = 0.2,
  top_ngrams: Sequence[tuple[Count, Share]] = ((2, 0.2), (3, 0.18), (4, 0.16)),
  ngrams: Sequence[tuple[Count, Share]] = (
    (5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1),
  ),
) -> Outcome:  # fmt: skip
  """Drops documents that repeat themselves. A limit of 0 turns its rule off.

  lines, paragraphs: the largest share that occurred before.
  line_characters, paragraph_characters: the largest share of characters that
    these have.
  top_ngrams: (n, the largest share of characters in the most frequent n-gram).
    Short texts have no n-gram twice, but one may make up a large share.
  ngrams: (n, the largest share of characters in n-grams that occurred before).
  """
  options = {k: v for k, v in locals().items() if k != 'document'}
  checks.check_arguments(gopher_repetition, options)
  found = _filter(
    'gopher_repetition_filter.GopherRepetitionFilter',
    dup_line_frac=lines, dup_line_char_frac=line_characters,
    dup_para_frac=paragraphs, dup_para_char_frac=paragraph_characters,
    top_n_grams=tuple(map(tuple, top_ngrams)),
    dup_n_grams=tuple(map(tuple, ngrams)),
  )  # fmt: skip
  reasons = GOPHER_REPETITION | {
    f'top_{n}_gram': f'a frequent {n}-gram' for n, _ in top_ngrams
  }
  reasons |= {
    f'duplicated_{n}_n_grams': f'repeated {n}-grams' for n, _ in ngrams
  }
  return _outcome(found, document, 'Gopher repetition', reasons, options)


def fineweb_quality(
  document: Document,
  *,
  min_ended: Share = 0.12,
  max_short: Share = 0.67,
  short_line: Natural = 30,
  max_repeated: Share = 0.01,
  max_breaks: NonNegative = 0.3,
) -> Outcome:
  """Drops lists, menus and pages whose lines repeat.

  min_ended: the least share of lines that end in final punctuation.
  max_short: the largest share of lines of at most `short_line` characters.
  max_repeated: the largest share of characters in lines that occurred before.
  max_breaks: the most line breaks per word.
  """
  options = {k: v for k, v in locals().items() if k != 'document'}
  checks.check_arguments(fineweb_quality, options)
  found = _filter(
    'fineweb_quality_filter.FineWebQualityFilter',
    line_punct_thr=min_ended, short_line_thr=max_short,
    short_line_length=short_line, char_duplicates_ratio=max_repeated,
    new_line_ratio=max_breaks,
  )  # fmt: skip
  return _outcome(found, document, 'FineWeb', FINEWEB_QUALITY, options)


def c4_quality(
  document: Document,
  *,
  min_sentences: Natural = 5,
  min_line_words: Natural = 3,
  max_word_length: Count = 1000,
  final_punctuation: bool = True,
  braces: bool = False,
) -> Outcome:
  """Removes lines that are no sentences; drops documents with few of the rest.

  Lines about JavaScript and cookies are removed too, citations such as [12] and
  [edit], white space around lines, and blank lines: paragraphs become lines.

  final_punctuation: removes lines that do not end in . ? ! or a quote, which
    takes more text than all other rules. FineWeb's recipe has False.
  braces: if False, documents with '{' are dropped, and so LaTeX and code are.
  """
  options = {k: v for k, v in locals().items() if k != 'document'}
  checks.check_arguments(c4_quality, options)
  # Not shared: it notes what happens to each line, and Beam has threads.
  found = _recorder()(
    min_num_sentences=min_sentences, min_words_per_line=min_line_words,
    max_word_length=max_word_length,
    filter_no_terminal_punct=final_punctuation, filter_curly_bracket=not braces,
    language=_splitter(),
  )  # fmt: skip
  copy = _copied(document)
  outcome = _outcome(found, document, 'C4', C4_QUALITY, options, copy)
  if isinstance(outcome, Dropped):
    return outcome
  if not copy.text:
    return Dropped('C4: no line left')
  edited = documents.edited(document, list(_line_edits(document, found.fates)))
  assert edited.text == copy.text, document.id
  return edited


def _line_edits(document: Document, fates: Sequence[str]) -> Iterator[Edit]:
  """Yields how lines are removed and changed, given datatrove's notes on each.

  datatrove returns only the text that is left.
  """
  from datatrove.pipeline.filters.c4_filters import CITATION_REGEX

  lines = document.text.splitlines(keepends=True)
  kept = {
    i: CITATION_REGEX.sub('', lines[i].strip())
    for i, fate in enumerate(fates)
    if fate == 'line-kept'
  }
  # datatrove strips the text that is left.
  first, *_, last = [i for i, line in kept.items() if line.strip()] * 2
  start = 0
  for i, line in enumerate(lines):
    kind, after = C4_LINES.get(fates[i], 'blank line'), ''
    if i in kept and first <= i <= last:
      kind = 'white space' if kept[i] == line.strip() else 'citation'
      after = kept[i].lstrip() if i == first else kept[i]
      after = after.rstrip() if i == last else f'{after}\n'
    elif not line.strip():
      kind = 'blank line'
    if after != line:
      yield Edit(f'C4: {kind}', start, line, after)
    start += len(line)


def words(text: str) -> list[str]:
  """Returns the words of a text; a punctuation mark counts as one."""
  return _WORD.findall(text)


def sentences(text: str) -> list[tuple[int, int]]:
  """Returns (start, end) of each sentence, as spaCy's sentencizer has them.

  A sentence begins with the first word after '.', '!' or '?'.
  """
  starts, is_over = [0] if text.strip() else [], False
  for match in _WORD.finditer(text):
    if match[0] in '.!?':
      is_over = True
    elif is_over and not all(map(_is_punctuation, match[0])):
      starts.append(match.start())
      is_over = False
  return list(zip(starts, [*starts[1:], len(text)], strict=False))


def _is_punctuation(character: str) -> bool:
  return unicodedata.category(character)[0] == 'P'


@functools.cache
def _splitter():
  """Returns what datatrove's filters take as a `language`."""
  from datatrove.utils.word_tokenizers import WordTokenizer

  class Splitter(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
      return words(text)

    def sent_tokenize(self, text: str) -> list[str]:
      return [text[start:end].strip() for start, end in sentences(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
      return sentences(text)

  return Splitter()


@functools.cache
def _filter(name: str, **options):
  """Returns a filter of datatrove with these options; each is made once."""
  module, _, kind = name.partition('.')
  try:
    loaded = importlib.import_module(f'datatrove.pipeline.filters.{module}')
  except ImportError as error:
    raise _missing(error) from error
  return getattr(loaded, kind)(language=_splitter(), **options)


@functools.cache
def _recorder():
  """Returns the class of C4's filter that notes the fate of each line."""
  try:
    from datatrove.pipeline.filters.c4_filters import C4QualityFilter
  except ImportError as error:
    raise _missing(error) from error

  class Recorder(C4QualityFilter):
    def __init__(self, **options):
      super().__init__(**options)
      self.fates = []

    def stat_update(self, *labels, **_):
      self.fates += [label for label in labels if label != 'line-total']

  return Recorder


def _missing(error: ImportError) -> ValueError:
  return ValueError(
    f'the rules of Gopher, C4 and FineWeb need datatrove ({error}): '
    "pip install 'rlpt_jax[corpus]'."
  )


def _copied(document: Document):
  from datatrove.data import Document as Copy

  return Copy(text=document.text, id=document.id)


def _outcome(
  found,
  document: Document,
  title: str,
  reasons: Mapping[str, str],
  options: Mapping[str, Any],
  copy=None,
) -> Outcome:
  """Returns the document, or why datatrove's filter drops it."""
  outcome = found.filter(copy or _copied(document))
  if outcome is True:
    return document
  _, code = outcome
  number = len(words(document.text))
  lines = len(document.text.splitlines())
  return Dropped(
    f'{title}: {reasons[code].format(**options)}',
    f'{number:,} words, {lines:,} lines',
  )
