"""The prompts as the papers print them, side by side, and their tokens.

A prompt is text with places in braces. What is put in a place arrives as tokens
that are already there (a document is tokenised once), so a prompt is a list of
token ids with holes: `compiled` makes it, `Prompt.fill` fills the holes.
"""

import dataclasses
import re
from collections.abc import Iterator

from rlpt_jax.core.tokenizer import Tokenizer

# RLPT (2509.19249), section 3.2. The paper's blank lines are recovered from a
# PDF and may differ.
ASR = """\
Complete the text provided under ### Context by predicting the next most \
probable sentence.

Please reason step by step to determine the best possible continuation, and \
then enclose your final answer within <|startofprediction|> and \
<|endofprediction|> tags.

### Context

{context}"""

MSR = """\
## Text Material ##: {prompt}

<MASK>

{next_step}

## Task ##: Fill in the <MASK> section of the material with appropriate \
sentences or a solution step.

Carefully reason step by step to determine the most suitable completion. \
Finally, provide your best prediction for the <MASK> section. Enclose your \
final answer for the <MASK> part within <|startofprediction|> and \
<|endofprediction|>."""

# None of the papers prints a prompt for questions with a verifiable answer.
# This is PretrainZero's wording (2512.03442, figure 5), for an answer to box.
RLVR = """\
{question}

Please reason step by step, and put your final answer within \\boxed{}."""

_PLACE = re.compile(r'\{(context|prompt|next_step|question)\}')


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt's tokens, with holes: len(pieces) == len(places) + 1."""

  pieces: tuple[tuple[int, ...], ...]
  places: tuple[str, ...]

  @property
  def num_tokens(self) -> int:
    """How many tokens the prompt has before anything is filled in."""
    return sum(map(len, self.pieces))

  def layout(self, **tokens: list[int]) -> list[tuple[str, list[int]]]:
    """(role, ids) in reading order: 'template', or the name of a place."""
    pieces = [('template', list(self.pieces[0]))]
    for place, piece in zip(self.places, self.pieces[1:], strict=True):
      pieces += [(place, tokens[place]), ('template', list(piece))]
    return pieces

  def fill(self, **tokens: list[int]) -> list[int]:
    """The prompt's ids with `tokens` in their places."""
    return [i for _, ids in self.layout(**tokens) for i in ids]


def compiled(template: str, tokenizer: Tokenizer, *, chat: bool) -> Prompt:
  """The template's tokens: as plain text after the token that begins every
  text, or as a user's message in the tokenizer's chat template.
  """
  literals = _PLACE.split(template)
  texts, places = literals[::2], tuple(literals[1::2])
  if not chat:
    pieces = [tuple(tokenizer.encode(text)) for text in texts]
    begin = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    return Prompt((begin + pieces[0], *pieces[1:]), places)
  # What a hole is filled with is no part of the text that the chat template
  # renders: a mark of its own stands for it, and -1 for its tokens.
  hole = '\U000f0000'
  ids = tokenizer.encode_chat(
    [{'role': 'user', 'content': hole.join(texts)}], literal={hole: [-1]}
  )
  if ids.count(-1) != len(places):
    raise ValueError(
      'the chat template changes or repeats the message that it is given: '
      f'expected {len(places)} holes in the prompt, found {ids.count(-1)}. '
      'Train with chat=False, or mend the template.'
    )
  return Prompt(tuple(tuple(piece) for piece in _split(ids, -1)), places)


def places(template: str) -> list[str]:
  """What is to be filled in, in order."""
  return _PLACE.findall(template)


def _split(ids: list[int], mark: int) -> Iterator[list[int]]:
  piece = []
  for i in ids:
    if i == mark:
      yield piece
      piece = []
    else:
      piece.append(i)
  yield piece
