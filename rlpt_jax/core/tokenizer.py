"""Text <-> token ids, three ways behind one interface.

  'bytes'                          ByteTokenizer: no file, for tests and toys
  x.model, or a directory with     SentencePieceTokenizer
  tokenizer.model
  a directory with tokenizer.json  HuggingFaceTokenizer: chat templates too

A directory of checkpoints has that of its run in assets/; there a file named
byte_tokenizer.txt stands for 'bytes'.

What we encode is raw text from the web, and some of it speaks about language
models: a document that says '<|endoftext|>' gets ordinary tokens, never the id
that ends a document. Only a program (by id) and a chat template place those.
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

# Some templates write what day it is. It is always that which Llama 3.2's has
# without a clock: with one, prompts would be others tomorrow, and a run could
# not go on. The plus keeps a line break with which a template begins.
ONE_DAY = '{% macro strftime_now(form) %}26 Jul 2024{% endmacro +%}'
# Classes that take a tokenizer.json as it is.
GENERIC = ('PreTrainedTokenizerFast', 'TokenizersBackend')
# What a tokenizer_config.json may say that changes none of its ids; the rest is
# left to transformers, which for some makes parts of a tokenizer anew.
HARMLESS = {
  'tokenizer_class', 'model_max_length', 'clean_up_tokenization_spaces',
  'chat_template', 'padding_side', 'truncation_side', 'model_input_names',
  'name_or_path', 'backend', 'is_local',
  'extra_special_tokens', 'additional_special_tokens', 'added_tokens_decoder',
  'bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token',
  'mask_token',
}  # fmt: skip
ASSETS, BYTES = 'assets', 'byte_tokenizer.txt'
PROBE = 'The "quick" fox (3.50): naïve café, 你好。\n\n  def f(x):  # <b>\n'
Messages = list[dict[str, Any]]  # [{'role': 'user', 'content': 'Hi'}, ...]


class Tokenizer(Protocol):
  """What the other parts know of a tokenizer; threads may share one."""

  vocab_size: int  # The largest id + 1; a model's vocabulary may be padded.
  bos_id: int | None  # What begins every text, if anything does.
  pad_id: int
  eos_ids: tuple[int, ...]  # All that end a text, the tokenizer's own first.
  # The most characters of a text that a token stands for; more only where a
  # tokenizer joins blanks or takes a whole word for unknown.
  longest_token: int

  def encode(self, text: str) -> list[int]:
    """Ids of plain text: none is added, none of them is special."""

  def pieces(self) -> dict[int, str]:
    """What each id stands for, as the tokenizer's own file spells it."""

  def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
    """The text of ids; special ones, and those without a text, say nothing."""

  def encode_chat(
    self,
    messages: Messages,
    *,
    add_generation_prompt: bool = True,
    literal: Mapping[str, list[int]] | None = None,
  ) -> list[int]:
    """Ids of a chat by the model's template, special ones included.

    A character of `literal` in a message stands for the ids it maps to.
    """


def load(source: str | pathlib.Path) -> Tokenizer:
  """The tokenizer of 'bytes', a SentencePiece file, or a model's directory."""
  if source == 'bytes':
    return ByteTokenizer()
  path = folder(source)
  if path.suffix == '.model' and path.is_file():
    return SentencePieceTokenizer(path)
  # Where there are both, tokenizer.json also knows what was added later: the
  # tokens of the chat template.
  if (path / 'tokenizer.json').is_file():
    return HuggingFaceTokenizer(path)
  if (path / 'tokenizer.model').is_file():
    return SentencePieceTokenizer(path / 'tokenizer.model')
  if (path / BYTES).is_file():
    return ByteTokenizer()
  raise ValueError(
    f'{path}: found no tokenizer; expected a directory with tokenizer.json or '
    "tokenizer.model, a file *.model, or 'bytes'. If the directory has another "
    'form (vocab.json and merges.txt), load it with '
    'transformers.AutoTokenizer and save_pretrained to get tokenizer.json.'
  )


def is_there(path: pathlib.Path) -> bool:
  """Whether a directory has the files of a tokenizer."""
  names = ('tokenizer.json', 'tokenizer.model', BYTES)
  return any((path / name).is_file() for name in names)


def folder(source: str | pathlib.Path) -> pathlib.Path:
  """Where the files are: of checkpoints beside the steps."""
  path = pathlib.Path(source)
  return path / ASSETS if is_there(path / ASSETS) else path


def difference(one: Tokenizer, other: Tokenizer) -> str | None:
  """How two tokenizers differ in what ids stand for; None where they agree.

  Ids that one of them lacks do not count: some files leave out what was added.
  """
  ours, theirs = one.pieces(), other.pieces()
  for i in sorted(ours.keys() & theirs.keys()):
    if ours[i] != theirs[i]:
      return f'id {i} is {ours[i]!r} to one and {theirs[i]!r} to the other'
  if one.encode(PROBE) != other.encode(PROBE):
    return 'they cut the same text into other tokens'
  return None


class ByteTokenizer:
  """UTF-8: a byte is its id. Any string comes back as it was."""

  vocab_size = 259
  longest_token = 1
  eos_ids = (256,)
  pad_id = 257
  bos_id = 258

  def pieces(self) -> dict[int, str]:
    names = {256: '<eos>', 257: '<pad>', 258: '<bos>'}
    return {i: f'<0x{i:02X}>' for i in range(256)} | names

  def encode(self, text: str) -> list[int]:
    # Lone surrogates, of broken JSON escapes, are not UTF-8: let them pass.
    return list(text.encode('utf-8', 'surrogatepass'))

  def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
    names = {256: b'<eos>', 257: b'<pad>', 258: b'<bos>'}
    names = names if keep_special else {}
    data = b''.join(
      bytes([i]) if i < 256 else names.get(i, b'') for i in map(int, ids)
    )
    try:
      return data.decode('utf-8', 'surrogatepass')
    except UnicodeDecodeError:  # What a model samples need not be text.
      return data.decode('utf-8', 'replace')

  def encode_chat(self, messages, **_):
    raise _no_chat_template('the byte tokenizer')


class SentencePieceTokenizer:
  """A SentencePiece model. What comes back is the text as the model sees it:
  normalised (often NFKC, runs of blanks joined), U+2581 as a blank, what is
  not in the vocabulary as ' ⁇ ' (nothing is, given byte_fallback).

  Most models put a blank before a text and take it away from what they decode.
  So the text of ids cut in two is not the two texts joined: decode the whole.
  """

  def __init__(self, path: str | pathlib.Path):
    import sentencepiece

    try:
      model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
      raise ValueError(
        f'{path}: not a SentencePiece model ({error}). Is it whole? Fetch it '
        'again from where the model came from.'
      ) from error
    self._path, self._model = path, model
    self.vocab_size = model.get_piece_size()
    self.longest_token = max(map(len, self.pieces().values()))
    # SentencePiece says -1 for a symbol that a model lacks.
    self.bos_id = model.bos_id() if model.bos_id() >= 0 else None
    self.eos_ids = (model.eos_id(),) if model.eos_id() >= 0 else ()
    # Padding is masked wherever it is: any id does that the model has. The
    # unknown symbol is the one that no model is without.
    candidates = (model.pad_id(), model.eos_id(), model.unk_id())
    self.pad_id = next(i for i in candidates if i >= 0)

  def pieces(self) -> dict[int, str]:
    return dict(enumerate(self._model.id_to_piece([*range(self.vocab_size)])))

  def encode(self, text: str) -> list[int]:
    # Control symbols are not looked for in text. User-defined ones are, which
    # is what they are for.
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
    # Threads of its own would not survive a fork, and warn of that.
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    directory = pathlib.Path(directory)
    self._directory = directory
    try:
      backend, roles, extra = _alone(directory) or self._by_transformers()
    except Exception as error:  # Each part of a file breaks in its own way.
      raise ValueError(
        f'{directory / "tokenizer.json"}: transformers cannot load this '
        f'tokenizer ({type(error).__name__}: {error}). Is it whole? Fetch it '
        'and the other tokenizer files again from where the model came from.'
      ) from error
    roles = {role: backend.token_to_id(token) for role, token in roles.items()}
    ends = [roles.get('eos_token'), *_generation_eos(directory)]
    pads = [roles.get('pad_token'), *ends]
    self.eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    self.pad_id = next((i for i in pads if i is not None), None)
    if self.pad_id is None:
      raise ValueError(
        f'{directory}: neither pad_token nor eos_token is set; expected one to '
        'pad with. Set eos_token in its tokenizer_config.json.'
      )
    # Some files name a token that they never put before a text.
    begins = backend.encode('', add_special_tokens=True).ids
    bos = roles.get('bos_token')
    self.bos_id = bos if bos in begins else None
    vocabulary = backend.get_vocab()
    self.vocab_size = max(vocabulary.values()) + 1
    # Byte-level BPE spells a token with a character for each of its bytes.
    self.longest_token = max(map(len, vocabulary))

    # Special is what the file calls so, and what has a role or ends a text: a
    # few published models forget the flag. Other added tokens, '<think>' in
    # most families, are the model's words for things: text may hold them.
    named = {*self.eos_ids, *roles.values(), *map(backend.token_to_id, extra)}
    special = {
      i: token
      for i, token in backend.get_added_tokens_decoder().items()
      if token.special or i in named
    }
    backend.add_special_tokens(list(special.values()))  # Flags them all.
    backend.no_truncation()  # A tokenizer.json may ask for both.
    backend.no_padding()
    # Two copies, since the switch between special and plain belongs to the
    # tokenizer: transformers turns it at every call, under other threads' feet.
    self._with_special, self._plain = backend, copy.deepcopy(backend)
    self._plain.encode_special_tokens = True  # Encode them like any text.

    self._special_text = _any_of(t.content for t in special.values())
    # The unknown token is special too, but text may well be unknown.
    self._never = special.keys() - {roles.get('unk_token')}

  def _by_transformers(self):
    """As `_alone`, for any directory that transformers knows."""
    backend = self._templated.backend_tokenizer  # Not there if it fell back.
    roles = self._templated.special_tokens_map
    return backend, roles, self._templated.all_special_tokens

  @functools.cached_property
  def _templated(self):
    """The same by transformers, which takes seconds to load, for chats."""
    # That there is no torch is no news: its tokenizers are all that we use.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    import transformers

    return transformers.AutoTokenizer.from_pretrained(
      self._directory, local_files_only=True, trust_remote_code=False
    )

  def __reduce__(self):
    # A pickle of `_plain` would forget the switch.
    return HuggingFaceTokenizer, (self._directory,)

  def pieces(self) -> dict[int, str]:
    return {i: piece for piece, i in self._plain.get_vocab().items()}

  def encode(self, text: str) -> list[int]:
    ids = _encode(self._plain, text)
    if self._never.isdisjoint(ids):
      return ids
    # The switch is enough for BPE. To a unigram or a word-level model special
    # tokens are words of its vocabulary as well: spell them.
    return [part for i in ids for part in self._spell(i)]

  def _spell(self, i: int) -> list[int]:
    if i not in self._never:
      return [i]
    characters, model = self._plain.id_to_token(i), self._plain.model
    pieces = [piece.id for c in characters for piece in model.tokenize(c)]
    return [piece for piece in pieces if piece not in self._never]

  def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
    # Not by way of transformers, which may tidy up blanks.
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
    """Ids of a chat, as by transformers, but that its messages are plain text.

    A character stands in for each special token of a message until the
    template is rendered. Not seen: one that only a normalizer makes, or that a
    template joins from a string of its own and the end of a message.
    """
    if not self._templated.chat_template:
      raise _no_chat_template(self._directory)
    texts = []
    _map_strings(messages, texts.append)
    found = {s for text in texts for s in self._special_text.findall(text)}
    # For private use, so neither blank nor of any case: a template that trims,
    # cuts or lowers a message leaves the character as it is.
    taken = set(self._templated.get_chat_template()).union(*texts)
    free = (c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in taken)
    marks = dict(zip(sorted(found), free, strict=False))
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
    # Every second piece is a mark, what split found. Each is encoded by itself,
    # so where a tokenizer begins texts with a blank, there are some more here.
    for i, piece in enumerate(re.split(_any_of(inserted), rendered)):
      if i % 2:
        ids += inserted[piece]
      else:
        ids += _encode(self._with_special, piece)
    return ids


def _alone(directory: pathlib.Path):
  """(tokenizer.json, {role: token}, other special tokens), or None.

  None where transformers might make another tokenizer of the directory than the
  file alone does.
  """
  try:
    return _by_its_file(directory)
  except Exception:  # Transformers knows more kinds, or says what is wrong.
    return None


def _by_its_file(directory: pathlib.Path):
  path = directory / 'tokenizer_config.json'
  others = ('added_tokens.json', 'special_tokens_map.json')
  if not path.exists() or any((directory / name).exists() for name in others):
    return None
  config = json.loads(path.read_text(encoding='utf-8'))
  if config.get('tokenizer_class') not in GENERIC:
    return None  # A class of its own may build it in another way.
  if not config.keys() <= HARMLESS:
    return None
  import tokenizers

  backend = tokenizers.Tokenizer.from_file(str(directory / 'tokenizer.json'))
  # Padding would name a token, and in large ones a pattern may be mended.
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
  # A batch of one: only for batches does it let go of the interpreter's lock,
  # and a server answers others while it encodes a long prompt.
  (encoded,) = backend.encode_batch_fast(
    [_well_formed(text)], add_special_tokens=False
  )
  return encoded.ids


def _generation_eos(directory: pathlib.Path) -> list[int | None]:
  # Chat models end a turn with another token than a document, and say so here.
  path = directory / 'generation_config.json'
  if not path.is_file():
    return []
  try:
    eos = json.loads(path.read_text(encoding='utf-8')).get('eos_token_id')
  except ValueError as error:
    raise ValueError(
      f'{path}: not JSON ({error}). Mend it, or remove it if the eos_token of '
      'the tokenizer is enough.'
    ) from error
  return eos if isinstance(eos, list) else [eos]


def _map_strings(value: Any, fn: Callable[[str], Any]) -> Any:
  # Keys too: those of a tool's arguments are as foreign as their values.
  if isinstance(value, str):
    return fn(value)
  if isinstance(value, dict):
    return {_map_strings(k, fn): _map_strings(v, fn) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_map_strings(x, fn) for x in value]
  return value


def _any_of(strings: Iterable[str]) -> re.Pattern:
  """Matches the first of strings that fits; nothing if there are none."""
  return re.compile(f'({"|".join(map(re.escape, strings)) or "(?!)"})')


def _well_formed(text: str) -> str:
  """The text with U+FFFD for lone surrogates, which only Python has."""
  data = text.encode('utf-16-le', 'surrogatepass')
  return data.decode('utf-16-le', 'replace')


def _no_chat_template(where: str | pathlib.Path) -> ValueError:
  return ValueError(
    f'{where}: has no chat template; expected a Hugging Face directory with '
    'chat_template.jinja (or chat_template in tokenizer_config.json). Add the '
    'template that the model was trained with, or give a prompt as plain text.'
  )
