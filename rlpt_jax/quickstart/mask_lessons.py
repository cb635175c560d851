"""PretrainZero's game in the small world: the policy chooses whole sentences.

A model of this size cannot find a mark inside a passage, or go on in the middle
of a sentence. So it hides a sentence, and predicts it from the text before it,
with RLPT's prompt and tags, for which its tokenizer has tokens. Of the
sentences, only conclusions can be worked out. Asides can be guessed now and
then. Nobody can know most events, or any whim: even if it is predicted word for
word, it counts as wrong, since it states no fact.

A cold start shows the model both roles. The sentences that it learns to hide
are chosen by chance, so it is RL that must find out which are worth hiding.
"""

import dataclasses
import functools
import pathlib
import random
from collections.abc import Iterator

import numpy as np

from rlpt_jax.core.checks import Count, PositiveShare
from rlpt_jax.data import mask_tasks, prompts
from rlpt_jax.data.masks import MARK, Mask, Paragraph
from rlpt_jax.quickstart import lessons
from rlpt_jax.quickstart.wordings import (
  CONCLUSIONS,
  EVENTS,
  read,
  same,
  sentences,
)
from rlpt_jax.quickstart.world import Dials, Document
from rlpt_jax.rewards import extract

CHOOSE = '{paragraph}\n\n'
PREDICT = prompts.ASR.replace('{context}', '{passage}')
FIRST = 100  # Seeds start here, so no document is shared with lessons.py.


@dataclasses.dataclass(frozen=True)
class ChooseSentence(mask_tasks.ChooseSpan):
  """A document of the small world, in which the policy chooses a sentence."""

  template: str = CHOOSE
  max_prompt_tokens: Count = 128
  min_tokens: Count = 16


@dataclasses.dataclass(frozen=True)
class PredictSentence(mask_tasks.PredictSpan):
  """The beginning of a document, whose next sentence is to be predicted."""

  template: str = PREDICT
  max_prompt_tokens: Count = 128
  min_tokens: Count = 16

  def prompt(self, mask, tokenizer):
    """Returns the prompt, which ends where the mark is."""
    shown = mask.passage.removesuffix(MARK).rstrip()
    return super().prompt(dataclasses.replace(mask, passage=shown), tokenizer)


def before(paragraph: str, span: str, rng: np.random.Generator) -> str:
  """Hides a sentence and all that follows; it is a `Hide` of data/masks.py."""
  del rng  # Repeated sentences are rare; the first one counts.
  return paragraph[: paragraph.index(span)] + MARK


def chosen(completion: str) -> extract.Answer:
  """Finds the chosen sentence between RLPT's tags."""
  text, reason, start = extract.prediction(completion)
  if text is None:
    return extract.Answer(None, reason)
  start += len(text) - len(text.lstrip())
  return extract.Answer(text.strip(), reason, start)


def same_fact(paragraph: str, text: str) -> str:
  """Returns the sentence of the paragraph that says the same as a text.

  A model of this size copies facts, but words them anew. It is a `Locate` of
  data/masks.py. Without such a sentence, it returns the text.
  """
  fact = read(text)
  for sentence in sentences(paragraph)[1:]:
    other = read(sentence)
    if fact and other and same(fact, other):
      return sentence
  return text


def later_sentence(paragraph: str, span: str) -> str | None:
  """Returns why a span is not usable, or None; a `Rule` of data/masks.py.

  It must be a whole sentence, but not the first, which follows nothing.
  """
  return None if span in sentences(paragraph)[1:] else 'not_a_sentence'


def random_sentence(
  paragraph: Paragraph, rng: np.random.Generator
) -> Mask | None:
  """Chooses a sentence after the first; it is a `Choose` of data/masks.py."""
  return _one_of(paragraph, sentences(paragraph.text)[1:], rng)


def uncertain_sentence(
  paragraph: Paragraph, rng: np.random.Generator, *, share: PositiveShare = 0.2
) -> Mask | None:
  """Chooses one of the sentences with the highest mean entropies.

  share: the share of sentences among which one is chosen by chance.
  """
  later = sentences(paragraph.text)[1:]
  later.sort(key=lambda sentence: -_entropy(paragraph, sentence))
  return _one_of(paragraph, later[: max(1, round(share * len(later)))], rng)


def sentence_kind(sentence: str) -> str:
  """Returns 'conclusion', 'event', 'aside', or else 'whim'."""
  fact = read(sentence)
  if fact is None:
    return 'whim'
  if fact[0] in EVENTS:
    return 'event'
  return 'conclusion' if fact[0] in CONCLUSIONS else 'aside'


def choice(document: Document, rng: random.Random) -> dict[str, str]:
  """Returns a prompt and a response that hides a random sentence."""
  return {
    'prompt': CHOOSE.replace('{paragraph}', document.text),
    'response': _tagged(rng.choice(document.sentences[1:])),
  }


def prediction(document: Document, rng: random.Random) -> dict[str, str]:
  """Returns a prompt and a response that predicts a random sentence.

  It is no conclusion: demonstrations of those are in lessons.py.
  """
  i = rng.choice(
    [i for i in range(1, len(document.sentences)) if i not in document.targets]
  )
  passage = ' '.join(document.sentences[:i])
  return {
    'prompt': PREDICT.replace('{passage}', passage),
    'response': _tagged(document.sentences[i]),
  }


def write(
  folder: pathlib.Path, *, seed: int = 0, dials: Dials = Dials(), **counts: int
):
  """Writes files of the game to a folder; arguments as for `lessons.write`.

  choices       prompts and responses that choose a sentence
  predictions   prompts and responses that predict one that is no conclusion
  """
  lines = {'choices': choice, 'predictions': prediction}

  def each(line, documents: Iterator[Document], rng) -> Iterator[dict]:
    return (line(document, rng) for document in documents)

  files = {name: functools.partial(each, line) for name, line in lines.items()}
  lessons.write_files(
    folder, files, seed=seed, dials=dials, counts=counts, first=FIRST
  )


def _one_of(
  paragraph: Paragraph, some: list[str], rng: np.random.Generator
) -> Mask | None:
  if not some:
    return None
  sentence = some[int(rng.integers(len(some)))]
  return Mask(sentence, before(paragraph.text, sentence, rng))


def _entropy(paragraph: Paragraph, sentence: str) -> float:
  """Returns the mean entropy at the tokens of a sentence of the paragraph."""
  start = paragraph.text.index(sentence)
  ends = np.cumsum([len(piece.text) for piece in paragraph.pieces])
  inside = (start < ends) & (ends <= start + len(sentence))
  tokens = [
    piece.tokens[0]
    for piece, is_inside in zip(paragraph.pieces, inside, strict=True)
    if is_inside
  ]
  return float(np.mean(paragraph.entropies[tokens]))


def _tagged(sentence: str) -> str:
  return f'{extract.START} {sentence}{extract.END}'
