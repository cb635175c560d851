"""Mistakes in what to read are named; what records depend on is noticed."""

import functools
import json

import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.data import config, segment, sources, tasks
from rlpt_jax.data.config import Data

BYTES = ByteTokenizer()
FILES = sources.Files('one', 'x.jsonl')


def test_every_task_of_every_corpus_with_weights_multiplied():
  corpora = [
    sources.Files('one', 'x.jsonl', weight=2),
    sources.Files('two', 'y.jsonl', task=tasks.Rlvr(weight=3)),
  ]
  data = Data(corpora, tasks.rlpt(msr_weight=0.5))
  found = config.components(data, BYTES)
  assert [(c.name, c.weight, c.folder) for c in found] == [
    ('one_asr', 2, 'one.text'),
    ('one_msr', 1, 'one.text'),
    ('two_rlvr', 3, 'two.question'),
  ]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'corpora': []}, r'corpora=\[\]: expected at least one corpus'),
    ({'corpora': FILES}, 'corpora=Files.*: expected a list'),
    ({'corpora': [FILES, FILES]}, 'two corpora are named one'),
    ({'epochs': 0}, 'epochs=0: expected a whole number of at least 1, or N'),
    ({'epochs': 2.5}, r'epochs=2\.5: expected a whole number of at least 1'),
    ({'window': -1}, 'window=-1: expected a whole number of at least 1'),
    ({'seed': 'x'}, "seed='x': expected a whole number"),
    ({'cache_dir': 3}, 'cache_dir=3: expected text in quotes'),
    ({'corpora': [sources.Files]}, 'with parentheses'),
    ({'task': tasks.Asr}, 'with parentheses'),
    ({'task': None}, 'task=None: expected a Task, or a list'),
    ({'task': [None]}, r'task=\[None\]: expected a Task'),
  ],
)
def test_mistakes(options, message):
  with pytest.raises(ValueError, match=message):
    Data(**{'corpora': [FILES], 'task': tasks.Asr(), **options})


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'task': []}, 'expected at least one task, found none'),
    (
      {'segmenter': segment.tokens},
      'Data.segmenter: tokens cannot segment a text',
    ),
    ({'task': tasks.Asr(max_prompt_tokens=9)}, 'expected room for at least'),
    ({'task': tasks.Asr(chat=True)}, 'has no chat template'),
  ],
)
def test_mistakes_that_are_found_before_anything_is_read(options, message):
  data = Data(**{'corpora': [FILES], 'task': tasks.Asr(), **options})
  with pytest.raises(ValueError, match=message):
    config.components(data, BYTES)


def test_a_segmenter_is_tried_only_where_texts_are_cut():
  # This one fails wherever it is called.
  task = tasks.Rlvr(template='{question}')
  data = Data([FILES], task, segmenter=segment.tokens)
  assert len(config.components(data, BYTES)) == 1


def test_the_same_task_twice():
  with pytest.raises(ValueError, match='one_asr is given twice'):
    config.components(Data([FILES], (tasks.Asr(), tasks.Asr())), BYTES)


def test_a_segmenter_in_words():
  assert config.describe(segment.paragraphs) == 'paragraphs'
  tokens = functools.partial(segment.tokens, size=9)
  assert config.describe(tokens) == 'tokens size=9'
  model = segment.model_name('english')
  assert config.describe(segment.sentences) == f'sentences by {model}'


def stage(segmenter=segment.sentences, tokenizer=BYTES, min_words=4):
  return tasks.Asr().stage(tokenizer, 'text', segmenter, min_words)


def test_what_changes_records_changes_the_settings(bpe):
  settings = config.settings(stage())
  assert settings == config.settings(stage(tokenizer=ByteTokenizer()))
  # Of more tokens than the probe has.
  tokens = functools.partial(segment.tokens, tokenizer=BYTES, size=6000)
  more = functools.partial(segment.tokens, tokenizer=BYTES, size=6001)
  others = [
    stage(segment.paragraphs),
    stage(tokens),
    stage(more),
    stage(tokenizer=bpe),
    stage(min_words=5),
  ]
  assert config.settings(stage(tokens)) == config.settings(
    stage(
      functools.partial(segment.tokens, tokenizer=ByteTokenizer(), size=6000)
    )
  )
  found = [json.dumps(config.settings(other)) for other in others]
  assert len({json.dumps(settings), *found}) == 6


def test_another_chat_template_is_another_setting():
  class Chatting(ByteTokenizer):
    def __init__(self, end):
      self.end = end

    def encode_chat(self, messages, **_):
      return self.encode(self.end.join(m['content'] for m in messages))

  found = [
    config.settings(tasks.Sft().stage(Chatting(end), 'text', None, 1))
    for end in ('\n', '\n\n')
  ]
  assert found[0] != found[1]
