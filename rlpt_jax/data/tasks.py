"""The tasks, which turn records into examples.

  Ntp     packed rows of text, every token predicted from those before it
  Sft     packed conversations, with the loss on the assistant's messages
  Asr     predict a segment from everything before it
  Msr     predict a segment from everything before it and the segment after it
  Rlvr    answer a question with a known answer
  rlpt    Asr and Msr, the second with the paper's weight lambda

The tasks of PretrainZero are in mask_tasks.py.

A task makes several items from a record: `count` says how many, and `example`
makes item i. A new task is a class with the members of `Task`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Name, Positive, Range
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.data import prompts, records
from rlpt_jax.data.order import permute
from rlpt_jax.data.records import Record

# At least two: in a row of one token, there is nothing to predict.
RowTokens = Annotated[int, Range(2, checks.LARGEST)]


class Task(Protocol):
  name: str
  weight: float
  packed: bool  # If True, items are (tokens, loss), packed into rows.
  selection: tuple[str, ...]  # The options that decide which items there are.

  def stage(
    self,
    tokenizer: Tokenizer,
    text: str | Sequence[str],
    segmenter: Callable[[str], list[int]],
    min_words: int,
  ) -> records.Stage:
    """Returns the stage that makes the records of this task."""

  def count(self, sizes: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Returns the number of items of each record.

    sizes: a row per record, with the columns of its stage.
    """

  def example(
    self, record: Record, corpus: str, i: int, tokenizer: Tokenizer
  ) -> Any:
    """Returns item i of a record: an Example, or (tokens, loss) if packed.

    A packed task also has `length(sizes, i, tokenizer)`, the number of tokens
    in the item.
    """

  def pieces(
    self, record: Record, i: int, tokenizer: Tokenizer
  ) -> list[tuple[str, list[int]]]:
    """Returns item i as a list of (role, tokens), for display."""


@dataclasses.dataclass(frozen=True)
class _Segments:
  """The base class of Asr and Msr, which predict a segment of a document.

  `max_prompt_tokens` bounds the whole prompt. A longer context is truncated on
  the left, at a segment boundary; if even the segment before the target is too
  long, its beginning is removed. At most `max_targets` targets of a document
  are used, chosen by a hash; None uses all.
  """

  weight: Positive = 1.0
  max_prompt_tokens: Count = 1024
  max_targets: Count | None = None
  chat: bool = False  # Makes the prompt a user message in the chat template.

  packed = False
  selection = ('max_targets',)
  name = template = ''

  def __post_init__(self):
    checks.check_fields(self)

  def stage(self, tokenizer, text, segmenter, min_words):
    self.room(tokenizer)  # Raises early if there is too little room.
    return records.Text(tokenizer, segmenter, text, min_words)

  def count(self, sizes, tokenizer):
    del tokenizer
    limit = self.max_targets or np.iinfo(np.int64).max
    return np.minimum(sizes[:, 0], limit)

  def target(self, record: Record, i: int) -> int:
    """Returns the number of the segment that item i asks for."""
    targets, n = record['targets'], self.max_targets
    if n is None or len(targets) <= n:
      return int(targets[i])
    # Choose by hash, so that the choice depends only on the document.
    document = record['document']
    chosen = [permute(j, len(targets), document) for j in range(n)]
    return int(targets[sorted(chosen)[i]])

  def example(self, record, corpus, i, tokenizer):
    target = self.target(record, i)
    prompt = prompts.compiled(self.template, tokenizer, chat=self.chat)
    filled = prompt.fill(**self.places(record, target, tokenizer))
    return Example(
      prompt_tokens=np.array(filled, np.int32),
      references=self.references(record, target),
      kind=self.name,
      corpus=corpus,
      document=record['document'],
      segment=target,
    )

  def pieces(self, record, i, tokenizer):
    prompt = prompts.compiled(self.template, tokenizer, chat=self.chat)
    places = self.places(record, self.target(record, i), tokenizer)
    return prompt.layout(**places)

  def room(self, tokenizer: Tokenizer) -> int:
    """Returns the number of prompt tokens left for the document."""
    prompt = prompts.compiled(self.template, tokenizer, chat=self.chat)
    room = self.max_prompt_tokens - prompt.num_tokens
    if room < 16:
      raise ValueError(
        f'{self.name}: max_prompt_tokens is {self.max_prompt_tokens}, and the '
        f'fixed part of the prompt takes {prompt.num_tokens}: expected room '
        f'for at least 16 more tokens. Set it to {prompt.num_tokens + 256}, '
        'say.'
      )
    return room


@dataclasses.dataclass(frozen=True)
class Asr(_Segments):
  """Autoregressive segment reasoning: predict a segment from all before it.

  The references are `following` segments: the target and those after it. The
  paper's prefix reward uses "several"; with 1, it becomes the strict reward.
  """

  following: Count = 3

  name = 'asr'
  template = prompts.ASR

  def places(self, record: Record, target: int, tokenizer: Tokenizer):
    return {'context': context(record, target, self.room(tokenizer), tokenizer)}

  def references(self, record: Record, target: int) -> tuple[str, ...]:
    return segments(record, target, target + self.following)


@dataclasses.dataclass(frozen=True)
class Msr(_Segments):
  """Middle segment reasoning: the segment after the target is shown too.

  So the target is the only reference. The segment shown is truncated to half of
  the tokens that `room` returns.
  """

  name = 'msr'
  template = prompts.MSR

  def places(self, record: Record, target: int, tokenizer: Tokenizer):
    room = self.room(tokenizer)
    shown = stripped(record, target + 1, target + 2, tokenizer)[: room // 2]
    before = context(record, target, room - len(shown), tokenizer)
    return {'prompt': before, 'next_step': shown}

  def references(self, record: Record, target: int) -> tuple[str, ...]:
    return segments(record, target, target + 1)


def rlpt(
  msr_weight: Positive = 1.0,
  max_prompt_tokens: Count = 1024,
  max_targets: Count | None = None,
  following: Count = 3,
  chat: bool = False,
) -> tuple[Asr, Msr]:
  """Returns ASR with weight 1 and MSR with weight `msr_weight`, to interleave.

  The weight is the paper's lambda. The paper states no value; with 1, both have
  the same share.
  """
  checks.check_arguments(rlpt, locals())
  shared = {
    'max_prompt_tokens': max_prompt_tokens,
    'max_targets': max_targets,
    'chat': chat,
  }
  return Asr(following=following, **shared), Msr(weight=msr_weight, **shared)


def segments(record: Record, first: int, last: int) -> tuple[str, ...]:
  """Returns the texts of segments first .. last - 1, unstripped."""
  text, ends = record['text'], record['ends']
  starts = [0, *ends.tolist()]
  return tuple(
    text[starts[i] : starts[i + 1]] for i in range(first, min(last, len(ends)))
  )


def stripped(
  record: Record, first: int, last: int, tokenizer: Tokenizer
) -> list[int]:
  """Returns the tokens of segments first .. last - 1, stripped at both ends.

  Tokenizes the first and the last segment again, if they change.
  """
  bounds = [0, *record['token_ends'].tolist()]
  tokens = record['tokens'][bounds[first] : bounds[last]].tolist()
  texts = segments(record, first, last)
  if last - first == 1:
    text = texts[0].strip()
    return tokens if text == texts[0] else tokenizer.encode(text)
  head, tail = texts[0].lstrip(), texts[-1].rstrip()
  if tail != texts[-1]:
    del tokens[bounds[last - 1] - bounds[first] :]
    tokens += tokenizer.encode(tail)
  if head != texts[0]:
    tokens[: bounds[first + 1] - bounds[first]] = tokenizer.encode(head)
  return tokens


def context(
  record: Record, target: int, room: int, tokenizer: Tokenizer
) -> list[int]:
  """Returns at most `room` tokens before a target, as many segments as fit.

  If even the segment before the target is too long, its beginning is removed.
  """
  bounds = np.concatenate([[0], record['token_ends']])
  first = int(np.searchsorted(bounds, bounds[target] - room))
  # One more segment may fit after stripping white space.
  first = max(0, min(first, target) - 1)
  while True:
    tokens = stripped(record, first, target, tokenizer)
    if len(tokens) <= room:
      return tokens
    if first == target - 1:
      return tokens[-room:]
    first += 1


@dataclasses.dataclass(frozen=True)
class _Packed:
  """The base class of Ntp and Sft, which pack several texts into a row."""

  weight: Positive = 1.0
  row_tokens: RowTokens = 1024

  packed = True
  selection = ('row_tokens',)
  name = ''

  def __post_init__(self):
    checks.check_fields(self)


@dataclasses.dataclass(frozen=True)
class Ntp(_Packed):
  """Packed language modeling: predict every token of a document but the first.

  A document longer than a row is split into pieces that overlap by one token,
  so that each token is predicted exactly once.
  """

  name = 'ntp'

  def stage(self, tokenizer, text, segmenter, min_words):
    return records.Text(tokenizer, segmenter, text, min_words)

  def count(self, sizes, tokenizer):
    # At least one: a document of a single token is an item without loss.
    predicted = sizes[:, 1] + _num_around(tokenizer) - 1
    return np.maximum(-(-predicted // (self.row_tokens - 1)), 1)

  def length(self, sizes, i, tokenizer):
    rest = int(sizes[1]) + _num_around(tokenizer) - i * (self.row_tokens - 1)
    return min(rest, self.row_tokens)

  def example(self, record, corpus, i, tokenizer):
    del corpus
    begin, end = _ids_around(tokenizer)
    whole = np.concatenate([begin, record['tokens'], end]).astype(np.int32)
    start = i * (self.row_tokens - 1)
    tokens = whole[start : start + self.row_tokens]
    return tokens, np.ones(len(tokens), np.float32)

  def pieces(self, record, i, tokenizer):
    tokens, _ = self.example(record, '', i, tokenizer)
    return [('plain', tokens[:1].tolist()), ('loss', tokens[1:].tolist())]


@dataclasses.dataclass(frozen=True)
class Sft(_Packed):
  """Supervised fine-tuning on packed conversations (see records.Chat).

  A conversation longer than a row is left out, not truncated.
  """

  messages: Name = 'messages'
  prompt: Name = 'prompt'
  response: Name = 'response'
  chat: bool = False  # Uses the chat template for prompt and response too.

  name = 'sft'

  def stage(self, tokenizer, text, segmenter, min_words):
    del text, segmenter, min_words
    return records.Chat(
      tokenizer, self.messages, self.prompt, self.response, self.chat
    )

  def count(self, sizes, tokenizer):
    del tokenizer
    return (sizes[:, 0] <= self.row_tokens).astype(np.int64)

  def length(self, sizes, i, tokenizer):
    del i, tokenizer
    return int(sizes[0])

  def example(self, record, corpus, i, tokenizer):
    del corpus, i, tokenizer
    return record['tokens'], record['loss'].astype(np.float32)

  def pieces(self, record, i, tokenizer):
    del i, tokenizer
    tokens, loss = record['tokens'], record['loss']
    cuts = [0, *(np.flatnonzero(np.diff(loss)) + 1), len(tokens)]
    return [
      ('loss' if loss[a] else 'plain', tokens[a:b].tolist())
      for a, b in itertools.pairwise(cuts)
    ]


@dataclasses.dataclass(frozen=True)
class Rlvr:
  """A question with a verifiable answer (records.Question)."""

  weight: Positive = 1.0
  max_prompt_tokens: Count = 1024
  question: Name = 'question'
  answer: Name = 'answer'
  answer_mark: str = ''
  chat: bool = False
  template: str = prompts.RLVR

  name = 'rlvr'
  packed = False
  selection = ('max_prompt_tokens', 'chat', 'template')

  def __post_init__(self):
    checks.check_fields(self)
    if prompts.places(self.template) != ['question']:
      raise ValueError(
        'rlvr.template: expected {question} once, and no other placeholder; '
        f'found {self.template!r}.'
      )

  def stage(self, tokenizer, text, segmenter, min_words):
    del text, segmenter, min_words
    return records.Question(
      tokenizer, self.question, self.answer, self.answer_mark
    )

  def count(self, sizes, tokenizer):
    # Leave out questions that are too long, since truncating would change them.
    prompt = prompts.compiled(self.template, tokenizer, chat=self.chat)
    room = self.max_prompt_tokens - prompt.num_tokens
    return (sizes[:, 0] <= room).astype(np.int64)

  def example(self, record, corpus, i, tokenizer):
    del i
    prompt = prompts.compiled(self.template, tokenizer, chat=self.chat)
    filled = prompt.fill(question=record['tokens'].tolist())
    return Example(
      prompt_tokens=np.array(filled, np.int32),
      references=(record['answer'],),
      kind=self.name,
      corpus=corpus,
      document=record['document'],
      segment=0,
    )

  def pieces(self, record, i, tokenizer):
    del i
    prompt = prompts.compiled(self.template, tokenizer, chat=self.chat)
    return prompt.layout(question=record['tokens'].tolist())


def _ids_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
  """Returns the ids before and after the text of a document: BOS and EOS."""
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  return begin, list(tokenizer.eos_ids[:1])


def _num_around(tokenizer: Tokenizer) -> int:
  return sum(map(len, _ids_around(tokenizer)))
