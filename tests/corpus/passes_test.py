"""Passes: blocks, faults, and what is written."""

import dataclasses
import json

import pytest

from rlpt_jax.corpus import passes
from rlpt_jax.corpus.documents import Document, Dropped, InBatches
from tests.corpus import corpora


def test_blocks_do_not_change_what_is_written(tmp_path, monkeypatch):
  path = corpora.write(tmp_path / 'in.jsonl', [f'text {i}' for i in range(90)])
  stages = [corpora.without_odd]
  corpora.make(path, stages, tmp_path / 'large')
  monkeypatch.setattr(passes, 'BLOCK_DOCUMENTS', 7)
  corpora.make(path, stages, tmp_path / 'small')
  large, small = (
    corpora.documents(tmp_path / name) for name in ('large', 'small')
  )
  assert large == small
  assert [one['n'] for one in large] == list(range(0, 90, 2))
  # The other fields and the place are kept.
  assert large[1]['text'] == 'text 2'
  assert large[1]['document'].startswith('here/in.jsonl@')


def test_a_stage_that_fails_loses_one_document(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['text'] * 20)
  manifest = corpora.make(path, [corpora.fails_on_seven], tmp_path / 'out')
  assert manifest['written'] == 19
  assert manifest['faults']['counts'] == {'fails_on_seven failed': 1}
  (first,) = manifest['faults']['first']['fails_on_seven failed']
  assert "KeyError('seven')" in first and 'in.jsonl@' in first


def test_strict_raises_and_says_where(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['text'] * 20)
  with pytest.raises(ValueError, match=r"in.jsonl@.*KeyError\('seven'\)"):
    corpora.make(path, [corpora.fails_on_seven], tmp_path / 'out', strict=True)


def test_unusable_documents_are_counted_and_the_rest_goes_on(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['one', '', 'three'])
  with path.open('ab') as file:
    file.write(b'{"text": "cut\n\xff\xfe\n{"text": "x", "at": "\\ud800"}\n')
  manifest = corpora.make(path, [corpora.fails_on_seven], tmp_path / 'out')
  assert manifest['faults']['counts'] == {
    "empty field 'text'": 1, 'not JSON, or cut': 1, 'invalid UTF-8': 1,
  }  # fmt: skip
  assert [one['text'] for one in corpora.documents(tmp_path / 'out')] == [
    'one', 'three', 'x',
  ]  # fmt: skip


def test_fields_are_joined_and_ids_are_carried_on(tmp_path):
  path = tmp_path / 'in.jsonl'
  path.write_text(json.dumps({'q': 'What?', 'a': 'That.', 'document': 'd1'}))
  corpora.make(path, [_same], tmp_path / 'out', text=('q', 'a'))
  assert corpora.documents(tmp_path / 'out') == [
    {'document': 'd1', 'text': 'What?\nThat.'}
  ]


def _same(document: Document):
  return document


SIZES = []


def _drop_all(documents):
  SIZES.append(len(documents))
  return [Dropped('all') for _ in documents]


def test_a_stage_in_batches_gets_many_documents(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['text'] * 20)
  SIZES.clear()
  manifest = corpora.make(path, [InBatches(_drop_all, size=8)], tmp_path / 'o')
  assert SIZES[0] == 1  # A trial.
  assert sum(SIZES[1:]) == 20 and max(SIZES) == 8
  assert manifest['written'] == 0
  assert manifest['stages'][0]['dropped'] == {'all': 20}


def test_a_field_named_text_that_is_not_the_text_is_kept(tmp_path):
  path = tmp_path / 'in.jsonl'
  path.write_text(json.dumps({'body': 'The text.', 'text': 'Another.'}))
  corpora.make(path, [_same], tmp_path / 'out', text='body')
  (found,) = corpora.documents(tmp_path / 'out')
  assert found['text'] == 'The text.'
  assert found['other_text'] == 'Another.'


def test_hostile_fields_are_counted_and_the_rest_goes_on(tmp_path):
  path = tmp_path / 'in.jsonl'
  deep = '[' * 700 + ']' * 700
  path.write_text(
    f'{{"text": "deep", "x": {deep}}}\n'
    '{"text": "half", "document": "\\ud800"}\n'
    '{"text": "whole"}\n'
  )
  manifest = corpora.make(path, [_same], tmp_path / 'out')
  assert manifest['faults']['counts'] == {
    'fields nested in more than 100 levels': 1
  }
  found = corpora.documents(tmp_path / 'out')
  assert [one['text'] for one in found] == ['half', 'whole']
  assert found[0]['document'] == '?'


def _shouting(document: Document):
  return dataclasses.replace(
    document, text=document.text.upper(), fields={'text': 'no'}
  )


def test_a_changed_text_counts_as_edited(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['one', 'TWO'])
  manifest = corpora.make(path, [_shouting], tmp_path / 'out')
  assert manifest['stages'][0]['edits'] == {'text changed': 1}
  found = corpora.documents(tmp_path / 'out')
  assert [one['text'] for one in found] == ['ONE', 'TWO']


def test_depth_is_counted_without_recursion():
  value = []
  for _ in range(100):
    value = [value]
  assert not passes.is_deep({'x': value[0]})
  assert passes.is_deep({'x': [value]})
