"""The prompts of the papers, and their tokens.

A template is text with places in braces. Places are filled with tokens instead
of text, since a document is tokenized only once. So a prompt is a list of token
ids with holes: `compiled` makes it, and `Prompt.fill` fills the holes.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

from rlpt_jax.core.tokenizer import Tokenizer

# RLPT (2509.19249), section 3.2. The blank lines are recovered from a PDF and
# may differ from the paper's.
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

# PretrainZero (2512.03442), figure 5: choose a span, and predict it.
MASK = """\
Generate a mask to mask important words in the following paragraph, \
satisfying the requirements below:
1) The mask should mask one or more entities in the passage. The masked words \
should be continuous.
2) The masked words should exactly match words in the original passage.
3) The masked words could be predicted according to the context. The \
difficulty to predict should be moderately challenging for you, so the answer \
would be short and as unique as possible.
Paragraph: {paragraph}
The final generated masked words must be placed inside \\mask{}."""

SPAN = """\
There is a passage with masked words by [mask]: {passage}
Please reason step by step, and put the predicted masked words within \
\\boxed{}."""

# None of these papers prints a prompt for questions with a verifiable answer.
# This one is worded like PretrainZero's (2512.03442, figure 5) and asks for a
# boxed answer.
RLVR = """\
{question}

Please reason step by step, and put your final answer within \\boxed{}."""

_PLACE = re.compile(
  r'\{(context|prompt|next_step|question|paragraph|passage)\}'
)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt's tokens: pieces, with one place to fill between every two."""

  pieces: tuple[tuple[int, ...], ...]
  places: tuple[str, ...]

  @property
  def num_tokens(self) -> int:
    """The number of tokens without the holes."""
    return sum(map(len, self.pieces))

  def layout(self, **tokens: list[int]) -> list[tuple[str, list[int]]]:
    """Returns the parts of a filled prompt as (role, ids), in order.

    A role is 'template' or a place's name.
    """
    pieces = [('template', list(self.pieces[0]))]
    for place, piece in zip(self.places, self.pieces[1:], strict=True):
      pieces += [(place, tokens[place]), ('template', list(piece))]
    return pieces

  def fill(self, **tokens: list[int]) -> list[int]:
    """Returns the prompt's ids with `tokens` in their places."""
    return [i for _, ids in self.layout(**tokens) for i in ids]


@functools.lru_cache(maxsize=64)
def compiled(template: str, tokenizer: Tokenizer, *, chat: bool) -> Prompt:
  """Tokenizes a template.

  chat: True if the prompt is a user message in the tokenizer's chat template.
    Otherwise it is plain text after the BOS token, if there is one.
  """
  literals = _PLACE.split(template)
  texts, places = literals[::2], tuple(literals[1::2])
  if not chat:
    pieces = [tuple(tokenizer.encode(text)) for text in texts]
    begin = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    return Prompt((begin + pieces[0], *pieces[1:]), places)
  # The chat template renders a message with a mark in place of each hole. The
  # mark is then encoded as -1.
  hole = '\U000f0000'
  ids = tokenizer.encode_chat(
    [{'role': 'user', 'content': hole.join(texts)}], literal={hole: [-1]}
  )
  if ids.count(-1) != len(places):
    raise ValueError(
      'the chat template changes or repeats the message that it is given: '
      f'expected {len(places)} placeholders in the prompt, found '
      f'{ids.count(-1)}. Train with chat=False, or fix the template.'
    )
  return Prompt(tuple(tuple(piece) for piece in _split(ids, -1)), places)


def places(template: str) -> list[str]:
  """Returns the names of the places to fill, in order."""
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
