"""The tokenizer of the small world.

It has tokens for bytes and for the words of the world, and one token for each
fixed line of the prompts.
"""

import json
import pathlib
from collections.abc import Iterable, Sequence

EOS = '<|endoftext|>'
CONFIG = {
  'tokenizer_class': 'PreTrainedTokenizerFast',
  'eos_token': EOS,
  'pad_token': EOS,
  'model_max_length': 512,
  'clean_up_tokenization_spaces': False,
}


def write(
  folder: pathlib.Path,
  texts: Iterable[str],
  *,
  lines: Sequence[str],
  size: int,
):
  """Trains a tokenizer of `size` tokens on texts, and writes its files.

  Every text can be encoded and decoded without loss.

  lines: strings that are one token wherever they occur, but not special.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=size - len(lines),
    special_tokens=[EOS],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  tokenizer.add_tokens(
    [tokenizers.AddedToken(x, normalized=False, special=False) for x in lines]
  )
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'), pretty=False)
  eos = {'eos_token_id': tokenizer.token_to_id(EOS)}
  ids = {**eos, 'pad_token_id': eos['eos_token_id']}
  for name, fields in (
    ('tokenizer_config.json', CONFIG), ('generation_config.json', eos),
    ('config.json', ids),
  ):  # fmt: skip
    (folder / name).write_text(json.dumps(fields, indent=2) + '\n')
