"""Samples of documents; tests/programs/make_questions_test.py has the rest."""

import pytest

from rlpt_jax.corpus import question_sample
from rlpt_jax.corpus.cleaning import Corpus
from rlpt_jax.corpus.documents import InBatches
from tests.corpus import corpora
from tests.corpus.questions_test import document, say, stage
from tests.llm import scripted_models


def test_a_larger_sample_contains_a_smaller_one(tmp_path):
  texts = [document(n).text for n in range(40)]
  path = corpora.write(tmp_path / 'in.jsonl', texts)
  with scripted_models.running(say) as models:
    asking = stage(models, tmp_path)
    stages = [corpora.without_odd, asking]
    corpus = Corpus([corpora.source(path)], stages, str(tmp_path / 'out'))
    few = question_sample.draw(corpus, 5)
    paid = sum(models.paid.values())
    many = question_sample.draw(corpus, 15)
    assert max(models.paid.values()) == 1 and paid
  assert few.documents == many.documents == 20
  ids = [[one.sample['id'] for one in each.outcomes] for each in (few, many)]
  assert len(ids[0]) == 5 and ids[0] == ids[1][:5] and len(set(ids[1])) == 15
  assert many.estimate.margin < few.estimate.margin


def test_no_document_is_an_error(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', [])
  with scripted_models.running(say) as models:
    corpus = Corpus(
      [corpora.source(path)], [stage(models, tmp_path)], str(tmp_path / 'out')
    )
    with pytest.raises(ValueError, match=r'in\.jsonl: no document reaches'):
      question_sample.draw(corpus, 5)


def test_calls_of_earlier_settings_do_not_count(tmp_path):
  texts = [document(n).text for n in range(30)]
  path = corpora.write(tmp_path / 'in.jsonl', texts)

  def estimated(folder, **options):
    stages = [stage(models, folder, **options)]
    corpus = Corpus([corpora.source(path)], stages, str(tmp_path / 'out'))
    return question_sample.draw(corpus, 20).estimate.total.tokens

  with scripted_models.running(say) as models:
    estimated(tmp_path / 'a')
    after = estimated(tmp_path / 'a', examples=0)
    fresh = estimated(tmp_path / 'b', examples=0)
  # Calls are added up in the order in which they end.
  assert after == pytest.approx(fresh, rel=1e-12)


def test_a_model_before_the_questions_is_refused(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['a'])
  with scripted_models.running(say) as models:
    stages = [InBatches(list), stage(models, tmp_path)]
    corpus = Corpus([corpora.source(path)], stages, str(tmp_path / 'out'))
    with pytest.raises(ValueError, match='list asks a model about every'):
      question_sample.draw(corpus, 5)
