"""What can be checked without a reader. The rest was checked by hand, twice."""

import collections
import dataclasses
import hashlib
import itertools
import pathlib
import re
import unicodedata

import pytest

from rlpt_jax.corpus import worked_examples
from rlpt_jax.corpus.worked_examples import DOMAINS, Checked, Worked

FOLDER = pathlib.Path(worked_examples.__file__).parent / 'question_examples'
LIBRARY = [each for name in DOMAINS for each in worked_examples.library(name)]
CHECKS = list(worked_examples.all_checks())
# A question is asked without its document.
REFERENCES = re.compile(
  r'according to|\b(text|document|passage|article|author|letter|leaflet|table '
  r'above|mentioned|described|this example)\b',
  re.IGNORECASE,
)
# Runs of numbers and operators with an equals sign.
_EQUATION = re.compile(r'[-\d.,:()/*+ ]+=[-\d.,:()/*+ =]+')
_THOUSANDS = re.compile(r'(?<=\d),(?=\d{3})')
_WHOLE = re.compile(r'(?:-(?=\d)|[\d(])[-\d.()/*+ ]*')
_WORDS = re.compile(r'-?\d[\d.,:]*\d|\d|[^\W\d_]+')


def words(text: str) -> list[str]:
  return [word.casefold() for word in _WORDS.findall(text)]


def contains(text: str, phrase: str) -> bool:
  return f' {" ".join(words(phrase))} ' in f' {" ".join(words(text))} '


def ids(example):
  return example.question[-30:-1]


def test_there_are_enough():
  for name in DOMAINS:
    assert len(worked_examples.library(name)) >= 4
  kinds = collections.Counter(each.kind for each in CHECKS)
  assert set(kinds) == {
    'good', 'wrong answer', 'leaked answer', 'missing context',
  }  # fmt: skip
  assert len(list(FOLDER.iterdir())) == len(DOMAINS) + 1


def test_nothing_occurs_twice():
  for field in ('document', 'question'):
    found = [getattr(each, field) for each in LIBRARY + CHECKS]
    assert len(set(found)) == len(found)
  # Nor does an example begin like another.
  starts = {each.document[:20] for each in LIBRARY + CHECKS}
  assert len(starts) == len(LIBRARY + CHECKS)


@pytest.mark.parametrize('example', LIBRARY + CHECKS, ids=ids)
def test_texts_are_clean(example):
  for name, text in dataclasses.asdict(example).items():
    if isinstance(text, bool):
      continue
    assert text and text == text.strip(), name
    assert text.isascii(), name
    for char in text:
      assert char == '\n' or unicodedata.category(char)[0] != 'C', name
    assert all(line == line.rstrip() for line in text.split('\n')), name
  assert 60 <= len(example.document.split()) <= 200
  assert len(example.answer.split()) <= 10


@pytest.mark.parametrize('example', LIBRARY, ids=ids)
def test_a_question_stands_alone_and_keeps_its_answer(example):
  assert example.domain in DOMAINS
  assert example in worked_examples.library(example.domain)
  assert example.question.endswith('?')
  assert len(example.question.split()) >= 9
  assert not REFERENCES.search(example.question)
  assert not contains(example.question, example.answer)
  last = re.split('[.:;] ', example.question)[-1]
  assert words(last)[0] not in ('is', 'are', 'does', 'do', 'can', 'has', 'was')
  assert not {'yes', 'no'} & {*words(example.answer)}


@pytest.mark.parametrize('example', LIBRARY, ids=ids)
def test_an_answer_is_in_the_document_or_worked_out(example):
  answer = example.answer.removeprefix('It is ')
  # Small numbers occur in documents by chance.
  is_stated = contains(example.document, answer) and not answer.isdigit()
  assert is_stated != example.computed
  if example.computed:
    assert contains(example.thought, words(answer)[0])


def calculations(text: str) -> list[tuple[float, float]]:
  """Both sides of all equations between numbers, such as '3 * 4 = 12'."""
  found = []
  for run in _EQUATION.findall(text):
    values = [value(side) for side in run.split('=')]
    pairs = itertools.pairwise(values)
    found += [pair for pair in pairs if None not in pair]
  return found


def value(side: str) -> float | None:
  """The value of an arithmetic expression; None if it is a part of one."""
  side = _THOUSANDS.sub('', side.strip(' .,:'))
  if not _WHOLE.fullmatch(side):
    return None
  try:
    return float(eval(side, {'__builtins__': {}}))
  except SyntaxError:
    return None


@pytest.mark.parametrize('example', LIBRARY + CHECKS, ids=ids)
def test_calculations_are_right(example):
  for text in (example.document, example.thought):
    for left, right in calculations(text):
      assert left == pytest.approx(right), text


def test_calculations_are_found():
  found = calculations('So (2 + 1) * 4 = 12, and 1,800 / 2 = 3 * 300 = 900.')
  assert found == [(12, 12), (900, 900), (900, 900)]
  assert calculations('d + 7 - 3 = 8 - d, 06:10 + 12:25 = 18:35, 3 m = 9') == []
  found = [calculations(each.thought) for each in LIBRARY if each.computed]
  assert sum(map(bool, found)) > 20


ID = 'web/0017'


def test_a_draw_depends_only_on_the_id():
  drawn = worked_examples.examples('Math', ID)
  assert len({each.question for each in drawn}) == 2
  assert drawn == worked_examples.examples('Math', ID)
  draws = {
    tuple(each.question for each in worked_examples.examples('Math', str(i)))
    for i in range(100)
  }
  assert len(draws) == 5 * 4  # All pairs, in both orders.
  # The same on every machine: the order is that of these hashes.
  known = worked_examples.library('Math')
  hashes = [
    hashlib.blake2b(f'{i} {ID}'.encode(), digest_size=8).hexdigest()
    for i in range(len(known))
  ]
  first = min(range(len(known)), key=hashes.__getitem__)
  assert drawn[0] == known[first]


def test_an_example_about_the_same_document_is_not_drawn():
  known = worked_examples.library('Other')
  document = known[0].document
  drawn = worked_examples.examples('Other', ID, 4, document=document)
  assert {each.question for each in drawn} == {
    each.question for each in known[1:]
  }
  assert worked_examples.examples('Other', ID, 0) == []
  with pytest.raises(ValueError, match='n: 5: expected from 0 to 4'):
    worked_examples.examples('Other', ID, 5, document=document)


def test_an_unknown_domain_is_an_error():
  with pytest.raises(ValueError, match="domain: 'Maths': expected one of"):
    worked_examples.examples('Maths', ID)


def test_checks_are_one_of_each_kind():
  orders, texts = set(), set()
  for i in range(60):
    drawn = worked_examples.checks(f'web/{i}')
    assert len(drawn) == len({each.kind for each in drawn}) == 4
    orders.add(tuple(each.kind for each in drawn))
    texts |= {each.question for each in drawn}
  assert len(orders) > 12 and len(texts) == len(CHECKS)


def test_a_check_fails_in_what_its_kind_says():
  accepted = (True, True, False)
  verdicts = {
    'good': accepted,
    'wrong answer': (True, False, False),
    'leaked answer': (True, True, True),
    'missing context': (False, True, False),
  }
  for each in CHECKS:
    assert isinstance(each, Checked)
    assert verdicts[each.kind] == (
      each.has_context, each.answer_correctness, each.info_leakage,
    )  # fmt: skip


def test_types():
  for each in LIBRARY:
    assert isinstance(each, Worked)
    assert isinstance(each.computed, bool)
