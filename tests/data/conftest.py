"""A tokenizer like those of chat models, and a small corpus."""

import json

import pytest
import tokenizers
import transformers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from rlpt_jax.core import tokenizer as tokenizer_lib

SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
  "'<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# How Qwen and Llama 3 cut text before they merge: words with the blank before
# them, line breaks with the marks before them.
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


@pytest.fixture(autouse=True)
def with_tensorflow(tensorflow):
  """It is loaded before any test here."""


@pytest.fixture(scope='session')
def bpe_directory(tmp_path_factory):
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(WORDS), 'isolated'),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ])  # fmt: skip
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=SPECIAL,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator([text_of(n) for n in range(20)], trainer)
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
  )
  tokenizer.chat_template = CHATML
  directory = tmp_path_factory.mktemp('bpe')
  tokenizer.save_pretrained(directory)
  return directory


@pytest.fixture(scope='session')
def bpe(bpe_directory):
  return tokenizer_lib.load(bpe_directory)


def text_of(number: int, num_sentences: int | None = None) -> str:
  """A document of which no two sentences, nor two of others, are the same."""
  if num_sentences is None:
    num_sentences = number % 7 + 1
  sentences = [
    f'Here is sentence {i} of the document that is number {number}.'
    for i in range(num_sentences)
  ]
  # Paragraphs of three.
  return ''.join(
    sentence + ('\n\n' if i % 3 == 2 else ' ')
    for i, sentence in enumerate(sentences)
  ).rstrip(' ')


@pytest.fixture
def corpus(tmp_path):
  """Writes documents as two files of jsonl; returns the glob."""

  def write(num_documents=40, name='corpus'):
    folder = tmp_path / name
    folder.mkdir()
    for file in range(2):
      lines = [
        json.dumps({'text': text_of(number), 'number': number}) + '\n'
        for number in range(file, num_documents, 2)
      ]
      (folder / f'{file}.jsonl').write_text(''.join(lines))
    return f'{folder}/*.jsonl'

  return write
