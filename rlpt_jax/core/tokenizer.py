"""Three tokenizers behind one interface.

  'bytes'                          ByteTokenizer: needs no file; for tests
  x.model, or a directory with     SentencePieceTokenizer
  tokenizer.model
  a directory with tokenizer.json  HuggingFaceTokenizer: has chat templates

A checkpoint folder holds its run's tokenizer in assets/, where a file named
byte_tokenizer.txt stands for 'bytes'.

Raw text from the web may contain the names of special tokens. A document that
says '<|endoftext|>' gets ordinary tokens, never the id that ends a document.
Only a program (by id) and a chat template insert special tokens.
"""

import copy
import functools
import itertools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

# Some templates write today's date. We fix it to Llama 3.2's default: otherwise
# prompts would change from day to day, and a run could not be resumed. The plus
# keeps a leading line break of the template.
ONE_DAY = '{% macro strftime_now(form) %}26 Jul 2024{% endmacro +%}'
# Classes that use a tokenizer.json unchanged.
GENERIC = ('PreTrainedTokenizerFast', 'TokenizersBackend')
# Keys of tokenizer_config.json that change no id, or whose tokens are checked
# by `_by_its_file`. If the file has any other key, transformers loads the
# tokenizer, since the key may change ids.
HARMLESS = {
  'tokenizer_class', 'model_max_length', 'clean_up_tokenization_spaces',
  'chat_template', 'padding_side', 'truncation_side', 'model_input_names',
  'name_or_path', 'backend', 'is_local',
  'extra_special_tokens', 'additional_special_tokens', 'added_tokens_decoder',
  'bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token',
  'mask_token',
}  # fmt: skip
ASSETS, BYTES_FILE = 'assets', 'byte_tokenizer.txt'
INCOMPLETE = '\ufffd'  # A part of a character is decoded to this.
PROBE = 'The "quick" fox (3.50): naïve café, 你好。\n\n  def f(x):  # <b>\n'
Messages = list[dict[str, Any]]  # [{'role': 'user', 'content': 'Hi'}, ...]


class Tokenizer(Protocol):
  """The interface of all tokenizers; several threads may share one."""

  vocab_size: int  # The largest id + 1; a padded embedding has more rows.
  bos_id: int | None  # The token that begins every text, if there is one.
  pad_id: int
  # All tokens that end a text; the tokenizer's own EOS token is the first.
  eos_ids: tuple[int, ...]
  # The largest number of characters per token. A token can stand for more only
  # if the tokenizer joins blanks or maps a whole word to the unknown token.
  longest_token: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text; adds no BOS or other special token."""

  def pieces(self) -> dict[int, str]:
    """Returns the token of each id, as spelled in the tokenizer's file."""

  def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
    """Returns the text of ids; drops special tokens, and ids without text."""

  def encode_chat(
    self,
    messages: Messages,
    *,
    add_generation_prompt: bool = True,
    literal: Mapping[str, list[int]] | None = None,
  ) -> list[int]:
    """Returns the ids of a chat in the model's template, with special tokens.

    literal: {character: ids}; in messages, such a character stands for its ids.
    """


def load(source: str | pathlib.Path) -> Tokenizer:
  """Loads a tokenizer: 'bytes', a SentencePiece file or a model's directory."""
  if source == 'bytes':
    return ByteTokenizer()
  path = folder(source)
  if path.suffix == '.model' and path.is_file():
    return SentencePieceTokenizer(path)
  # Prefer tokenizer.json: if a directory has both files, only this one has the
  # tokens that were added later for the chat template.
  if (path / 'tokenizer.json').is_file():
    return HuggingFaceTokenizer(path)
  if (path / 'tokenizer.model').is_file():
    return SentencePieceTokenizer(path / 'tokenizer.model')
  if (path / BYTES_FILE).is_file():
    return ByteTokenizer()
  raise ValueError(
    f'{path}: no tokenizer found; expected a directory with tokenizer.json or '
    "tokenizer.model, a file *.model, or 'bytes'. If the directory has "
    'another format (vocab.json and merges.txt), load it with '
    'transformers.AutoTokenizer and call save_pretrained to get '
    'tokenizer.json.'
  )


def has_tokenizer(path: pathlib.Path) -> bool:
  """True if a directory contains the files of a tokenizer."""
  names = ('tokenizer.json', 'tokenizer.model', BYTES_FILE)
  return any((path / name).is_file() for name in names)


def folder(source: str | pathlib.Path) -> pathlib.Path:
  """Returns where a tokenizer's files are: for a checkpoint, in its assets/."""
  path = pathlib.Path(source)
  return path / ASSETS if has_tokenizer(path / ASSETS) else path


def difference(one: Tokenizer, other: Tokenizer) -> str | None:
  """Describes how two tokenizers differ; None if they agree.

  Compares the tokens of the ids that both have (some files omit added tokens),
  and how both encode one text.
  """
  ours, theirs = one.pieces(), other.pieces()
  for i in sorted(ours.keys() & theirs.keys()):
    if ours[i] != theirs[i]:
      return f'id {i} is {ours[i]!r} in one and {theirs[i]!r} in the other'
  if one.encode(PROBE) != other.encode(PROBE):
    return 'they tokenize the same text differently'
  return None


class ByteTokenizer:
  """Uses the bytes of UTF-8 as ids; decoding restores any string exactly."""

  vocab_size = 259
  longest_token = 1
  eos_ids = (256,)
  pad_id = 257
  bos_id = 258

  def pieces(self) -> dict[int, str]:
    names = {256: '<eos>', 257: '<pad>', 258: '<bos>'}
    return {i: f'<0x{i:02X}>' for i in range(256)} | names

  def encode(self, text: str) -> list[int]:
    # Accept lone surrogates, which broken JSON escapes produce.
    return list(text.encode('utf-8', 'surrogatepass'))

  def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
    names = {256: b'<eos>', 257: b'<pad>', 258: b'<bos>'}
    names = names if keep_special else {}
    data = b''.join(
      bytes([i]) if i < 256 else names.get(i, b'') for i in map(int, ids)
    )
    try:
      return data.decode('utf-8', 'surrogatepass')
    except UnicodeDecodeError:  # A model may sample bytes that are not text.
      return data.decode('utf-8', 'replace')

  def encode_chat(self, messages, **_):
    raise _no_chat_template('the byte tokenizer')


class SentencePieceTokenizer:
  """A SentencePiece model.

  Decoding does not always return the original text. The model normalizes it
  (often NFKC, with runs of blanks joined), any U+2581 in it becomes a blank,
  and anything outside the vocabulary becomes ' ⁇ ' (with byte_fallback, nothing
  is outside).

  Most models add a blank before a text and remove it when they decode. So
  decode a sequence as a whole: if halves are decoded and joined, a blank may be
  missing between them.
  """

  def __init__(self, path: str | pathlib.Path):
    import sentencepiece

    try:
      model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
      raise ValueError(
        f'{path}: not a SentencePiece model ({error}). Is the file complete? '
        'Download it again from the source of the model.'
      ) from error
    self._path, self._model = path, model
    self.vocab_size = model.get_piece_size()
    self.longest_token = max(map(len, self.pieces().values()))
    # SentencePiece returns -1 for a symbol that the model lacks.
    self.bos_id = model.bos_id() if model.bos_id() >= 0 else None
    self.eos_ids = (model.eos_id(),) if model.eos_id() >= 0 else ()
    # Padding is always masked, so any valid id will do. Every model has the
    # unknown symbol.
    candidates = (model.pad_id(), model.eos_id(), model.unk_id())
    self.pad_id = next(i for i in candidates if i >= 0)

  def pieces(self) -> dict[int, str]:
    return dict(enumerate(self._model.id_to_piece([*range(self.vocab_size)])))

  def encode(self, text: str) -> list[int]:
    # SentencePiece never matches control symbols in text. It does match
    # user-defined symbols, as intended.
    return self._model.encode(_well_formed(text))

  def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
    known = [i for i in map(int, ids) if i < self.vocab_size]
    texts = []
    for special, run in itertools.groupby(known, self._model.is_control):
      if not special:
        texts.append(self._model.decode(list(run)))
      elif keep_special:
        texts += self._model.id_to_piece(list(run))
    return ''.join(texts)

  def encode_chat(self, messages, **_):
    raise _no_chat_template(self._path)


class HuggingFaceTokenizer:
  """The tokenizer.json of a Hugging Face directory, with its chat template."""

  def __init__(self, directory: str | pathlib.Path):
    # The library's own threads do not survive a fork, and warn about it.
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    directory = pathlib.Path(directory)
    self._directory = directory
    try:
      backend, roles, extra = (
        _from_one_file(directory) or self._by_transformers()
      )
    except Exception as error:  # Damaged files raise many types of errors.
      raise ValueError(
        f'{directory / "tokenizer.json"}: transformers cannot load this '
        f'tokenizer ({type(error).__name__}: {error}). Is the file complete? '
        'Download it and the other tokenizer files again from the source of '
        'the model.'
      ) from error
    roles = {role: backend.token_to_id(token) for role, token in roles.items()}
    ends = [roles.get('eos_token'), *_generation_eos(directory)]
    pads = [roles.get('pad_token'), *ends]
    self.eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    self.pad_id = next((i for i in pads if i is not None), None)
    if self.pad_id is None:
      raise ValueError(
        f'{directory}: neither pad_token nor eos_token is set; expected one '
        'of them for padding. Set eos_token in its tokenizer_config.json.'
      )
    # Some files declare a BOS token but never add it to a text.
    begins = backend.encode('', add_special_tokens=True).ids
    bos = roles.get('bos_token')
    self.bos_id = bos if bos in begins else None
    vocabulary = backend.get_vocab()
    self.vocab_size = max(vocabulary.values()) + 1
    # Byte-level BPE spells a token with one character per byte, so this may be
    # more than the characters of its text, but never fewer.
    self.longest_token = max(map(len, vocabulary))

    # Besides tokens flagged as special, treat those with a role and those that
    # end a text as special, because a few published models forget the flag.
    # Other added tokens, like '<think>' in most families, are ids that plain
    # text may get.
    named = {*self.eos_ids, *roles.values(), *map(backend.token_to_id, extra)}
    special = {
      i: token
      for i, token in backend.get_added_tokens_decoder().items()
      if token.special or i in named
    }
    backend.add_special_tokens(list(special.values()))  # Flags them all.
    # A tokenizer.json may enable truncation and padding.
    backend.no_truncation()
    backend.no_padding()
    # Keep two copies: whether special tokens are encoded as text is a switch of
    # the tokenizer object, and setting it per call would affect other threads.
    self._with_special, self._plain = backend, copy.deepcopy(backend)
    self._plain.encode_special_tokens = True  # Encode them like any text.

    self._special_text = _any_of(t.content for t in special.values())
    # The unknown token is special too, but plain text may produce it.
    self._never = special.keys() - {roles.get('unk_token')}

  def _by_transformers(self):
    """Like `_from_one_file`, for any directory that transformers can load."""
    backend = self._templated.backend_tokenizer  # Only fast tokenizers have it.
    roles = self._templated.special_tokens_map
    return backend, roles, self._templated.all_special_tokens

  @functools.cached_property
  def _templated(self):
    """The transformers tokenizer; loading it, at first use, takes seconds."""
    # Silence the warning that torch is missing: we only use tokenizers.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    import transformers

    return transformers.AutoTokenizer.from_pretrained(
      self._directory, local_files_only=True, trust_remote_code=False
    )

  def __reduce__(self):
    # Pickling `_plain` would lose its `encode_special_tokens`.
    return HuggingFaceTokenizer, (self._directory,)

  def pieces(self) -> dict[int, str]:
    return {i: piece for piece, i in self._plain.get_vocab().items()}

  def encode(self, text: str) -> list[int]:
    ids = _encode(self._plain, text)
    if self._never.isdisjoint(ids):
      return ids
    # With `encode_special_tokens`, BPE never gets here. But a unigram or
    # word-level model has the special tokens in its vocabulary, and finds them
    # in text like any word: split them into other tokens.
    return [part for i in ids for part in self._spell(i)]

  def _spell(self, i: int) -> list[int]:
    if i not in self._never:
      return [i]
    characters, model = self._plain.id_to_token(i), self._plain.model
    pieces = [piece.id for c in characters for piece in model.tokenize(c)]
    return [piece for piece in pieces if piece not in self._never]

  def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
    # We do not decode with transformers: it may clean up blanks.
    return self._plain.decode(
      [int(i) for i in ids], skip_special_tokens=not keep_special
    )

  def encode_chat(
    self,
    messages: Messages,
    *,
    add_generation_prompt: bool = True,
    literal: Mapping[str, list[int]] | None = None,
  ) -> list[int]:
    """Like transformers' apply_chat_template, but messages are plain text.

    A special token in a message is encoded like any other text: a placeholder
    character replaces it while the template is rendered. This misses special
    tokens that only a normalizer creates, or that the template forms by joining
    its own text to a message.
    """
    if not self._templated.chat_template:
      raise _no_chat_template(self._directory)
    texts = []
    _map_strings(messages, texts.append)
    specials = {s for text in texts for s in self._special_text.findall(text)}
    # Private-use characters are neither blank nor upper or lower case, so they
    # survive a template that trims, splits or lowercases a message.
    taken = set(self._templated.get_chat_template()).union(*texts)
    free = (c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in taken)
    marks = dict(zip(sorted(specials), free, strict=False))
    rendered = self._templated.apply_chat_template(
      _map_strings(
        messages,
        lambda text: self._special_text.sub(lambda m: marks[m[0]], text),
      ),
      add_generation_prompt=add_generation_prompt,
      tokenize=False,
      chat_template=ONE_DAY + self._templated.get_chat_template(),
    )
    inserted = {mark: self.encode(text) for text, mark in marks.items()}
    inserted.update(literal or {})
    ids = []
    # Every second piece is a mark. Each piece is encoded separately, so a
    # tokenizer that begins texts with a blank adds some extra blanks here.
    for i, piece in enumerate(re.split(_any_of(inserted), rendered)):
      if i % 2:
        ids += inserted[piece]
      else:
        ids += _encode(self._with_special, piece)
    return ids


def _from_one_file(directory: pathlib.Path):
  """Returns (tokenizer, {role: token}, other special tokens), or None.

  Uses tokenizer.json alone. Returns None if transformers might load a different
  tokenizer from the directory.
  """
  try:
    return _by_its_file(directory)
  except Exception:  # Let transformers load it, or raise a better error.
    return None


def _by_its_file(directory: pathlib.Path):
  path = directory / 'tokenizer_config.json'
  others = ('added_tokens.json', 'special_tokens_map.json')
  if not path.exists() or any((directory / name).exists() for name in others):
    return None
  config = json.loads(path.read_text(encoding='utf-8'))
  if config.get('tokenizer_class') not in GENERIC:
    return None  # A model-specific class may build a different tokenizer.
  if not config.keys() <= HARMLESS:
    return None
  import tokenizers

  backend = tokenizers.Tokenizer.from_file(str(directory / 'tokenizer.json'))
  # Leave both cases to transformers: it takes a pad token from `padding`, and
  # may correct the pattern of the pre-tokenizer if the vocabulary is large.
  if backend.padding or backend.get_vocab_size() > 100_000:
    return None
  extra = [
    *(config.get('extra_special_tokens') or ()),
    *(config.get('additional_special_tokens') or ()),
  ]
  roles = {
    role: token['content'] if isinstance(token, dict) else token
    for role, token in config.items()
    if role.endswith('_token') and isinstance(token, (str, dict))
  }
  if not all(isinstance(token, str) for token in extra):
    return None
  added = {t.content: t for t in backend.get_added_tokens_decoder().values()}
  for token in (config.get('added_tokens_decoder') or {}).values():
    token = tokenizers.AddedToken(**token)
    if repr(token) != repr(added.get(token.content)):
      return None
  if not {*roles.values(), *extra} <= added.keys():
    return None
  return backend, roles, extra


def _encode(backend, text: str) -> list[int]:
  # Encode a batch of one, so that a server can answer other requests while it
  # encodes a long prompt: the library releases the GIL only for batches.
  (encoded,) = backend.encode_batch_fast(
    [_well_formed(text)], add_special_tokens=False
  )
  return encoded.ids


def _generation_eos(directory: pathlib.Path) -> list[int | None]:
  # Chat models end a turn and a document with different tokens. This file lists
  # them.
  path = directory / 'generation_config.json'
  if not path.is_file():
    return []
  try:
    eos = json.loads(path.read_text(encoding='utf-8')).get('eos_token_id')
  except ValueError as error:
    raise ValueError(
      f'{path}: not JSON ({error}). Fix it, or remove it if the eos_token of '
      'the tokenizer is enough.'
    ) from error
  return eos if isinstance(eos, list) else [eos]


def _map_strings(value: Any, fn: Callable[[str], Any]) -> Any:
  # Keys too: those of a tool's arguments are as untrusted as the values.
  if isinstance(value, str):
    return fn(value)
  if isinstance(value, dict):
    return {_map_strings(k, fn): _map_strings(v, fn) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_map_strings(x, fn) for x in value]
  return value


def _any_of(strings: Iterable[str]) -> re.Pattern:
  """Returns a pattern of any of the strings; with none, it matches nothing."""
  return re.compile(f'({"|".join(map(re.escape, strings)) or "(?!)"})')


def _well_formed(text: str) -> str:
  """Replaces lone surrogates, which are not valid Unicode text, with U+FFFD."""
  data = text.encode('utf-16-le', 'surrogatepass')
  return data.decode('utf-16-le', 'replace')


def _no_chat_template(where: str | pathlib.Path) -> ValueError:
  return ValueError(
    f'{where}: has no chat template; expected a Hugging Face directory with '
    'chat_template.jinja (or chat_template in tokenizer_config.json). Add the '
    'template that the model was trained with, or give the prompt as plain '
    'text.'
  )
