"""The world's tokenizer: any text comes back, and fixed lines are one token."""

import pytest

from rlpt_jax.core import tokenizer as tokenizers
from rlpt_jax.quickstart import vocabulary

LINES = ['Fixed line of many words.\n\n', '\n\n', '<|startofprediction|>']


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp('vocabulary')
  texts = ['The key is in the barn.', 'So Mara has 13 shells in all.'] * 20
  vocabulary.write(folder, texts, lines=LINES, size=320)
  return tokenizers.load(folder)


@pytest.mark.parametrize(
  'text',
  [
    '', 'The key is in the barn.', ' x\n\n\n y  \t\u00a0', '你好 🙂 e\u0301',
    '<|endoftext|>', 'Fixed line of many words.\n\nFixed line of many',
    '\x00\x7f', '\ufeff',
  ],
)  # fmt: skip
def test_any_text_comes_back(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert not set(ids) & set(tokenizer.eos_ids)


def test_words_numbers_and_lines_are_one_token(tokenizer):
  assert tokenizer.vocab_size <= 320
  for text in (*LINES, ' key', ' 13', ' barn'):
    assert len(tokenizer.encode(text)) == 1, text
  # The longest line wins, wherever a shorter one is inside it.
  assert len(tokenizer.encode('Fixed line of many words.\n\nThe')) == 2
