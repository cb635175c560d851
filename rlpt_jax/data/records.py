"""Turns documents into records, the form in which a corpus is cached.

Examples are made from records on the fly. So the length of contexts, the mix of
tasks, and the choice of the segments to predict can change without preparing a
corpus again. A stage turns documents into records:

  Text       raw text: segments and their tokens (ntp, asr, msr)
  Chat       a conversation: tokens and a loss mask (sft)
  Question   a question with a verifiable answer (rlvr)
  Paragraphs the paragraphs of a text, of a length within bounds (mask)
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.data import masks, segment
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.sources import Document, fields, text_fault, text_of

Record = dict[str, Any]  # 'document': its id, and the features of the stage.


@dataclasses.dataclass
class Tally:
  """Counts documents, records, lengths, and what was left out, by reason."""

  faults: Faults
  documents: int = 0
  records: int = 0
  left_out: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  # Exact counts of each length: {'words of a segment': {12: 407, ...}, ...}
  lengths: dict[str, collections.Counter] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(collections.Counter)
  )


class Stage(Protocol):
  """The interface of stages, which turn documents into records."""

  name: str
  features: dict[str, str]  # The dtype of each; all but strings are lists.
  columns: tuple[str, ...]  # What `sizes` returns; the index stores it.

  def record(self, document: Document, tally: Tally) -> Record | None:
    """Returns a document's record; None, and counts why, if it is unusable."""

  def sizes(self, record: Record) -> tuple[int, ...]:
    """Returns the values of `columns` for a record."""


def records(
  documents: Iterable[Document], stage: Stage, tally: Tally
) -> Iterator[Record | None]:
  """Yields the record of each document, or None if it is unusable."""
  for document in documents:
    tally.documents += 1
    record = stage.record(document, tally)
    tally.records += record is not None
    yield record


@dataclasses.dataclass(frozen=True)
class Text:
  """Splits a text into segments with tokens, and lists the possible targets.

  A target is a segment that a task asks to predict. The first and the last
  segment are never targets (RLPT, section 3.2), nor are those of fewer than
  `min_words` words. The paper does not say how short is too short. Segments of
  three words or fewer are headings, labels and exclamations ("Why not?"): the
  context does not predict them, or they are easy to guess.
  """

  tokenizer: Tokenizer
  segmenter: Callable[[str], list[int]]
  field: str | Sequence[str] = 'text'  # Several are joined by line breaks.
  min_words: int = 4

  name = 'text'
  columns = ('targets', 'tokens')
  features = {  # noqa: RUF012 - nobody writes to it.
    'document': 'string',
    'text': 'string',
    'ends': 'int32',  # The end of each segment, in characters of the text.
    'token_ends': 'int32',  # The end of each segment, in tokens.
    'tokens': 'int32',
    'targets': 'int32',
  }

  def record(self, document: Document, tally: Tally) -> Record | None:
    text = _joined_text(document, self.field, tally)
    if text is None:
      return None
    ends = self.segmenter(text)
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    tokens = [self._encode(piece) for piece in pieces]
    words = [segment.num_words(piece) for piece in pieces]
    inner = range(1, len(pieces) - 1)
    targets = [i for i in inner if words[i] >= self.min_words]
    if len(pieces) < 3:
      tally.left_out['documents with fewer than three segments'] += 1
    tally.left_out['segments that begin or end a document'] += min(
      2, len(pieces)
    )
    short = len(inner) - len(targets)
    tally.left_out[f'segments of fewer than {self.min_words} words'] += short
    tally.lengths['words of a segment'].update(words)
    tally.lengths['tokens of a segment'].update(map(len, tokens))
    tally.lengths['segments of a document'][len(pieces)] += 1
    token_ends = np.cumsum([len(ids) for ids in tokens])
    tally.lengths['tokens of a document'][int(token_ends[-1])] += 1
    return {
      'document': document.id,
      'text': text,
      'ends': np.array(ends, np.int32),
      'token_ends': token_ends.astype(np.int32),
      'tokens': np.array([i for ids in tokens for i in ids], np.int32),
      'targets': np.array(targets, np.int32),
    }

  def sizes(self, record: Record) -> tuple[int, ...]:
    return len(record['targets']), len(record['tokens'])

  def _encode(self, piece: str) -> list[int]:
    # A tokenizer that adds a blank before every text would double the blank.
    if piece.startswith(' ') and _begins_with_blank(self.tokenizer):
      piece = piece[1:]
    return self.tokenizer.encode(piece)


def _joined_text(
  document: Document, field: str | Sequence[str], tally: Tally
) -> str | None:
  """Returns the text of one field or several; None if one has no text."""
  texts = []
  for name in fields(field):
    texts.append(text_of(document, name, tally.faults))
    if texts[-1] is None:
      return None
  return '\n'.join(texts)


@functools.lru_cache(maxsize=8)
def _begins_with_blank(tokenizer: Tokenizer) -> bool:
  encode = tokenizer.encode
  joined = encode('b a')
  return encode('b') + encode('a') == joined != encode('b') + encode(' a')


@dataclasses.dataclass(frozen=True)
class Chat:
  """A conversation as tokens, with the loss on the assistant's messages.

  A document has either `messages`, a list of {'role', 'content'}, or `prompt`
  and `response`. Messages use the tokenizer's chat template. Prompt and
  response use it only if `chat` is set; otherwise their tokens are joined.
  """

  tokenizer: Tokenizer
  messages: str = 'messages'
  prompt: str = 'prompt'
  response: str = 'response'
  chat: bool = False

  name = 'chat'
  columns = ('tokens',)
  features = {  # noqa: RUF012 - nobody writes to it.
    'document': 'string',
    'tokens': 'int32',
    'loss': 'int32',
  }

  def record(self, document: Document, tally: Tally) -> Record | None:
    if self.messages in document.fields:
      messages = document.fields[self.messages]
      if fault := _not_a_conversation(messages):
        tally.faults.add(f'{self.messages}: {fault}', document.where)
        return None
    else:
      prompt = text_of(document, self.prompt, tally.faults)
      response = prompt and text_of(document, self.response, tally.faults)
      if not response:
        return None
      messages = [
        {'role': 'user', 'content': prompt},
        {'role': 'assistant', 'content': response},
      ]
      if not self.chat:
        return self._finish(document, *self._plain(prompt, response), tally)
    _check_template(self.tokenizer)
    try:
      ids, loss = self._chat(messages)
    except Exception as error:  # A template can raise any exception.
      first_line = str(error).partition('\n')[0]
      tally.faults.add(
        'the chat template rejects it', document.where, first_line
      )
      return None
    if not any(loss):
      tally.faults.add(
        'the chat template changes the messages before an answer',
        document.where,
      )
      return None
    return self._finish(document, ids, loss, tally)

  def _plain(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
    bos, eos = self.tokenizer.bos_id, self.tokenizer.eos_ids[:1]
    before = [] if bos is None else [bos]
    before += self.tokenizer.encode(prompt)
    after = [*self.tokenizer.encode(response), *eos]
    return before + after, [0] * len(before) + [1] * len(after)

  def _chat(self, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Returns ids and loss mask.

    The mask omits answers that cannot be located in the rendered conversation.
    """
    encode = self.tokenizer.encode_chat
    ids = encode(messages, add_generation_prompt=False)
    loss = [0] * len(ids)
    for i, message in enumerate(messages):
      if message['role'] != 'assistant':
        continue
      before = encode(messages[:i], add_generation_prompt=True)
      until = encode(messages[: i + 1], add_generation_prompt=False)
      # A template may change earlier turns, e.g. drop their reasoning. Then, in
      # `ids`, only the last answer follows the prompt it would be sampled from.
      if until == ids[: len(until)] and before == ids[: len(before)]:
        loss[len(before) : len(until)] = [1] * (len(until) - len(before))
    return ids, loss

  def _finish(self, document, ids, loss, tally) -> Record:
    tally.lengths['tokens of a conversation'][len(ids)] += 1
    tally.lengths['tokens trained on'][sum(loss)] += 1
    return {
      'document': document.id,
      'tokens': np.array(ids, np.int32),
      'loss': np.array(loss, np.int32),
    }

  def sizes(self, record: Record) -> tuple[int, ...]:
    return (len(record['tokens']),)


@functools.lru_cache(maxsize=8)
def _check_template(tokenizer: Tokenizer):
  """Raises the tokenizer's error if it has no chat template."""
  tokenizer.encode_chat([{'role': 'user', 'content': 'Hello.'}])


def _not_a_conversation(messages: Any) -> str | None:
  if not isinstance(messages, list) or not messages:
    return 'not a list of messages'
  for message in messages:
    if not isinstance(message, dict) or not {'role', 'content'} <= set(message):
      return "a message is not {'role': ..., 'content': ...}"
    if text_fault(message['role']) or text_fault(message['content']):
      return "a message's role or content is not text"
  if all(message['role'] != 'assistant' for message in messages):
    return 'no assistant message'
  return None


@dataclasses.dataclass(frozen=True)
class Question:
  """A question with its reference answer.

  If `answer_mark` is set, the answer is the text after the last mark in the
  field: GSM8K ends its solutions with '#### 72'.
  """

  tokenizer: Tokenizer
  question: str = 'question'
  answer: str = 'answer'
  answer_mark: str = ''

  name = 'question'
  columns = ('tokens',)
  features = {  # noqa: RUF012 - nobody writes to it.
    'document': 'string',
    'tokens': 'int32',
    'answer': 'string',
  }

  def record(self, document: Document, tally: Tally) -> Record | None:
    question = text_of(document, self.question, tally.faults)
    answer = question and text_of(document, self.answer, tally.faults)
    if not answer:
      return None
    if self.answer_mark:
      _, mark, answer = answer.rpartition(self.answer_mark)
      if not mark or not answer.strip():
        tally.faults.add(f'no {self.answer_mark!r} answer', document.where)
        return None
    ids = self.tokenizer.encode(question.strip())
    tally.lengths['tokens of a question'][len(ids)] += 1
    return {
      'document': document.id,
      'tokens': np.array(ids, np.int32),
      'answer': answer.strip(),
    }

  def sizes(self, record: Record) -> tuple[int, ...]:
    return (len(record['tokens']),)


@dataclasses.dataclass(frozen=True)
class Paragraphs:
  """The paragraphs of a text that have a length within bounds, in tokens."""

  tokenizer: Tokenizer
  field: str | Sequence[str] = 'text'  # Several are joined by line breaks.
  min_tokens: int = 64
  max_tokens: int = 1024

  name = 'paragraphs'
  columns = ('paragraphs', 'tokens')
  features = {  # noqa: RUF012 - nobody writes to it.
    'document': 'string',
    'text': 'string',
    # Of each paragraph, without white space around it, in characters of `text`.
    'starts': 'int32',
    'ends': 'int32',
    'tokens': 'int32',
    'token_ends': 'int32',
  }

  def record(self, document: Document, tally: Tally) -> Record | None:
    text = _joined_text(document, self.field, tally)
    if text is None:
      return None
    starts, ends, tokens = [], [], []
    for start, end in itertools.pairwise([0, *segment.paragraphs(text)]):
      piece = text[start:end]
      ids = self.tokenizer.encode(piece.strip())
      tally.lengths['tokens of a paragraph'][len(ids)] += 1
      if reason := self._left_out(piece, len(ids)):
        tally.left_out[reason] += 1
        continue
      start += len(piece) - len(piece.lstrip())
      starts.append(start)
      ends.append(start + len(piece.strip()))
      tokens.append(ids)
    tally.lengths['paragraphs of a document'][len(tokens)] += 1
    return {
      'document': document.id,
      'text': text,
      'starts': np.array(starts, np.int32),
      'ends': np.array(ends, np.int32),
      'tokens': np.array([i for ids in tokens for i in ids], np.int32),
      'token_ends': np.cumsum([len(ids) for ids in tokens]).astype(np.int32),
    }

  def _left_out(self, piece: str, count: int) -> str | None:
    if count < self.min_tokens:
      return f'paragraphs of fewer than {self.min_tokens} tokens'
    if count > self.max_tokens:
      return f'paragraphs of more than {self.max_tokens} tokens'
    if masks.num_words(piece) < 2:
      return 'paragraphs of fewer than two words'
    if masks.MARK in piece:
      return f'paragraphs that contain {masks.MARK}'
    return None

  def sizes(self, record: Record) -> tuple[int, ...]:
    return len(record['ends']), len(record['tokens'])
