import concurrent.futures
import sys

import pytest

from rlpt_jax.corpus import language as lib
from rlpt_jax.corpus.documents import Document, Dropped
from rlpt_jax.corpus.language import language

ENGLISH = Document('a', 'The dog runs across the street to the other house.')
GERMAN = Document('b', 'Der Hund läuft über die Straße zu dem anderen Haus.')
FRENCH = Document('c', "Le chien court dans la rue vers l'autre maison.")


def test_other_languages_are_dropped():
  assert language(ENGLISH) is ENGLISH
  assert language(GERMAN) == Dropped('language: de', 'de 1.00')
  assert language(FRENCH).reason == 'language: fr'
  assert language(GERMAN, languages=['en', 'de']) is GERMAN
  assert language(ENGLISH, languages=['de']).reason == 'language: en'


@pytest.mark.parametrize(
  'text', ['', '...', '12 + 3', 'OK', 'Hello', 'The cat']
)
def test_short_texts_are_unsure(text):
  outcome = language(Document('a', text))
  assert outcome.reason == 'language: unsure'
  code, probability = outcome.detail.split()
  assert code and 0 < float(probability) < 0.5


def test_the_least_probability():
  short = Document('a', 'A house of stone')
  _, probability = language(short, min_probability=1.0).detail.split()
  assert 0.3 < float(probability) < 0.99
  assert language(short, min_probability=float(probability) - 0.01) is short
  assert isinstance(language(short, min_probability=0.9), Dropped)


def test_only_the_beginning_is_read():
  both = Document('a', ENGLISH.text + GERMAN.text * 20)
  assert language(both).reason == 'language: de'
  assert language(both, max_characters=len(ENGLISH.text)) is both


def test_threads_share_the_model():
  documents = [ENGLISH, GERMAN, FRENCH] * 30
  expected = [language(document) for document in documents]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(language, documents)) == expected


def test_an_unknown_language_is_named():
  with pytest.raises(
    ValueError, match=r"\('english',\): expected codes out of"
  ):
    language(ENGLISH, languages=['english'])
  with pytest.raises(ValueError, match="languages='en': expected a list"):
    language(ENGLISH, languages='en')


def test_without_the_library(monkeypatch):
  monkeypatch.setitem(sys.modules, 'py3langid', None)
  lib._identifier.cache_clear()
  with pytest.raises(ValueError, match=r"pip install 'rlpt_jax\[corpus\]'"):
    language(ENGLISH)
