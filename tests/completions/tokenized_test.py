"""What `rlpt generate` is asked; the rest is seen through the command."""

import pytest

from rlpt_jax.completions import tokenized
from rlpt_jax.core.tokenizer import ByteTokenizer


def test_special_ids():
  tokenizer = ByteTokenizer()
  assert tokenized.special_ids(None, ()) == ()
  assert tokenized.special_ids(tokenizer, ('a', '<eos', '<pad>')) == (257,)
  with pytest.raises(ValueError, match=r"'<eos>' is a special token, which"):
    tokenized.special_ids(tokenizer, ('<eos>\n',))
