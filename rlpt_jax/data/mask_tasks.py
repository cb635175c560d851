"""The tasks of PretrainZero: choose a span of a paragraph, or predict one.

ChooseSpan    choose a span that is hard, but possible, to predict
PredictSpan   predict a span that was chosen by chance, or by the policy
"""

import dataclasses
from typing import ClassVar

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Positive
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.data import masks, prompts, records
from rlpt_jax.data.masks import Choose, Mask, Paragraph
from rlpt_jax.data.records import Record


@dataclasses.dataclass(frozen=True)
class _Paragraphs:
  """The common part of both tasks.

  A paragraph that does not fit in the prompt is left out, not truncated; it is
  counted when the corpus is read.

  min_tokens: shorter paragraphs are left out. They are headings, items of lists
    and captions, which say too little to predict a part from the rest. The
    paper states no bounds.
  """

  weight: Positive = 1.0
  max_prompt_tokens: Count = 1024
  min_tokens: Count = 64
  chat: bool = False  # Makes the prompt a user message in the chat template.
  template: str = ''

  packed = False
  selection = ()  # The bounds belong to the stage.
  name = place = ''
  spare: ClassVar[int] = 0  # Tokens that the passage may have more.

  def __post_init__(self):
    checks.check_fields(self)
    if prompts.places(self.template) != [self.place]:
      raise ValueError(
        f'{self.name}.template: expected {{{self.place}}} once, and no other '
        f'placeholder; found {self.template!r}.'
      )

  def stage(self, tokenizer, text, segmenter, min_words):
    del segmenter, min_words
    fixed = self._prompt(tokenizer).num_tokens
    room = self.max_prompt_tokens - fixed - self.spare
    if room < self.min_tokens:
      raise ValueError(
        f'{self.name}: max_prompt_tokens is {self.max_prompt_tokens}, and the '
        f'fixed part of the prompt takes {fixed}: expected room for at least '
        f'min_tokens={self.min_tokens} more. Set it to '
        f'{fixed + 4 * self.min_tokens}, say.'
      )
    return records.Paragraphs(tokenizer, text, self.min_tokens, room)

  def count(self, sizes, tokenizer):
    del tokenizer
    return sizes[:, 0]

  def _prompt(self, tokenizer: Tokenizer) -> prompts.Prompt:
    return prompts.compiled(self.template, tokenizer, chat=self.chat)


@dataclasses.dataclass(frozen=True)
class ChooseSpan(_Paragraphs):
  """A paragraph, in which the policy chooses a span to hide."""

  template: str = prompts.MASK

  name, place = 'choose_span', 'paragraph'

  def example(self, record, corpus, i, tokenizer):
    filled = self._prompt(tokenizer).fill(paragraph=_tokens(record, i))
    return Example(
      prompt_tokens=np.array(filled, np.int32),
      references=(_text(record, i),),
      kind=self.name,
      corpus=corpus,
      document=record['document'],
      segment=i,
    )

  def pieces(self, record, i, tokenizer):
    return self._prompt(tokenizer).layout(paragraph=_tokens(record, i))


@dataclasses.dataclass(frozen=True)
class PredictSpan(_Paragraphs):
  """A paragraph in which a span is hidden, to be predicted.

  choose: chooses the span by chance; always the same one of a paragraph. It
    cannot look at entropies, as there is no policy here.
  """

  template: str = prompts.SPAN
  choose: Choose = masks.random_span

  name, place = 'predict_span', 'passage'
  spare = 16  # For the mark, which may be longer than what it hides.

  def example(self, record, corpus, i, tokenizer):
    mask = self._mask(record, i, tokenizer)
    return Example(
      prompt_tokens=np.array(self.prompt(mask, tokenizer), np.int32),
      references=mask.references,
      kind=self.name,
      corpus=corpus,
      document=record['document'],
      segment=i,
    )

  def prompt(self, mask: Mask, tokenizer: Tokenizer) -> list[int]:
    """Returns the tokens of the prompt that asks for the hidden span."""
    passage = tokenizer.encode(mask.passage)
    return self._prompt(tokenizer).fill(passage=passage)

  def pieces(self, record, i, tokenizer):
    passage = tokenizer.encode(self._mask(record, i, tokenizer).passage)
    return self._prompt(tokenizer).layout(passage=passage)

  def _mask(self, record: Record, i: int, tokenizer: Tokenizer) -> Mask:
    text = _text(record, i)
    paragraph = Paragraph(text, _tokens(record, i), tokenizer, self._look)
    rng = masks.generator(f'{record["document"]}/{i}', 0)
    # Without a span, nothing is hidden, and an empty reference has no verdict:
    # next_token finds none where every character is several tokens.
    return self.choose(paragraph, rng) or Mask('', text)

  def _look(self):
    raise checks.setting_error(
      type(self), 'choose', self.choose,
      'a function that does not look at entropies, which only game.Game.choose '
      'may do, since they are those of the policy',
    )  # fmt: skip


def _text(record: Record, i: int) -> str:
  return record['text'][int(record['starts'][i]) : int(record['ends'][i])]


def _tokens(record: Record, i: int) -> list[int]:
  bounds = [0, *record['token_ends'].tolist()]
  return record['tokens'][bounds[i] : bounds[i + 1]].tolist()
