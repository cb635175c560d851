"""A SentencePiece tokenizer of a few words."""

import io

import sentencepiece

from rlpt_jax.core.tokenizer import SentencePieceTokenizer


def train(folder) -> SentencePieceTokenizer:
  """Trains it on 'the ship left at dawn', and writes its file to a folder."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['the ship left at dawn'] * 20),
    model_writer=model, vocab_size=30, hard_vocab_limit=False, minloglevel=2,
  )  # fmt: skip
  path = folder / 'small.model'
  path.write_bytes(model.getvalue())
  return SentencePieceTokenizer(path)
