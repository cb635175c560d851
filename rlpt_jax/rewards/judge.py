"""The generative reward model (RLPT, 2509.19249, section 3.2): a judge decides
whether a prediction means the same as a prefix of the text that really follows.

There are two references to choose from. `following` is all segments that
follow, joined as in the text; the paper's prefix reward uses it. `asked` is
only the segment that was asked for; the paper's strict reward uses it. The
paper prints no prompt for the strict reward, so both use the same one.

There are two ways to ask: `ByAnswer` parses the judge's answer; `ByProbability`
compares the probabilities of 'Score: 0' and 'Score: 1' without decoding.

The judge's thinking (up to </think>) is removed. An answer in one of these
forms is a verdict:

  Score: 1   **Score:** 0   - score = 1.   SCORE：1   "score": 1}   Score -> 1
  Score: 1, since it says the same.   Score: 0 (it does not)   <score>1</score>
  1   **0**   - 1.                                     if nothing else is said

A score is followed by the end of its line or by a word that does not belong to
the number; any other text may surround it. All numbers called a score must
agree, and each must be exactly 0 or 1. So these are not verdicts: 'Score: 10',
'0.5', '1/2', '1 / 10', '1 out of 10', '-1', '0-1', '0 or 1', '1%', thinking
that does not end, and an answer that gives both scores, for example by
repeating the two lines of the prompt. Parsing takes time linear in the length
of the answer.

The reasons, and the reward that each gives:

  right, wrong        1 and 0: the judge's verdict
  graded              P(1) / (P(0) + P(1)), if there is no threshold
  format/...          0: there is no prediction; the judge is not asked
  short               0: the prediction is too short; the judge is not asked
  judge/failed        NaN: the judge gave no answer, or no probabilities
  judge/unparsable    NaN: the answer has none of the forms above
  judge/both          NaN: the answer gives both scores
  judge/neither       NaN: both scores are improbable
  gold/empty          NaN: the reference is empty

The paper has no guard against a prefix as short as 'The', which passes its
prompt. We require a prediction to have at least `min_share` times as many words
as the first segment. The count of 'short' shows how many have fewer.
"""

import abc
import dataclasses
import math
import re
from collections.abc import Callable, Sequence

from rlpt_jax.core import checks
from rlpt_jax.core.checks import PositiveShare, Share
from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.scores import Reward, Scores, Verdict
from rlpt_jax.rewards.text_match import tokens

# Prompts -> answers, None for a prompt without an answer.
Complete = Callable[[list[str]], Sequence[str | None]]
# Prompts -> log-probabilities of 'Score: 0' and 'Score: 1', NaN if unknown.
Score = Callable[[list[str]], Sequence[tuple[float, float]]]
Reference = Callable[[Example], str]

# The paper's prompt, verbatim; the line breaks are reconstructed from its PDF.
PROMPT = """\
## Task
Given a Predicted sentence and a Reference paragraph, determine whether the \
Predicted text is a prefix (initial segment) of the Reference paragraph, and \
whether it expresses exactly the same semantic content as the corresponding \
prefix of the Reference. The Predicted text does not need to match the prefix \
of the Reference word-for-word, but it must convey the same meaning.

Reference: {reference}

Predicted: {predicted}

## Scoring Rules

If the Predicted text semantically matches the prefix of the Reference, assign \
a score of 1.

If the Predicted text does not semantically match the prefix of the Reference, \
assign a score of 0. When making your judgment, focus primarily on semantic \
equivalence, not on exact wording.

Only output the score on a single line; do not provide any explanatory text or \
additional content. Output format (choose one):

- Score: 0 or
- Score: 1"""

# (reference, prediction) pairs to try a judge with; any verdicts are accepted.
TRIAL_PAIRS = (
  ('The cat sat on the mat. It was warm.', 'The cat sat on the mat.'),
  ('The cat sat on the mat. It was warm.', 'There was a cat on the mat.'),
  ('Two and three are five.', 'It rained all day.'),
)

# Marks allowed between the word 'score' and its number, and before a bare
# number. A dash that touches the number is a minus sign, so it is not allowed.
_BEFORE = r'(?:[-=]>|[\s*_`"\'|:：=→({\[]|[-–—](?=\s))'
_AFTER, _BLANK = r'*_`"\')}\]|）】', r'[^\S\n]'
_SCORE = re.compile(
  rf'(?<!\w)score>?{_BEFORE}{{0,20}}(?=[^\w\s]{{0,3}}\d)', re.IGNORECASE
)
# A complete number: the line ends after it, or a word follows that does not
# belong to it.
_NUMBER = re.compile(
  rf'([01])(?![^\W_])[{_AFTER}]{{0,20}}[.,;!。，；！]{{0,3}}'
  rf'(?:[{_AFTER}]|{_BLANK}){{0,20}}'
  rf'(?:[(\[{{]|<[|/]?|[-–—]{{1,3}}(?={_BLANK}))?(?:[*_`"\']|{_BLANK}){{0,20}}'
  r'(?:$|(?!(?i:out|of|or|to|and|in|on|per|percent|half|plus|minus|times|over|'
  r'through|vs|x|hundred|thousand|million)\b)[^\W\d_])',
  re.MULTILINE,
)
_BARE = re.compile(rf'\A{_BEFORE}*([01])[\s.{_AFTER}]*\Z')
_PLACE = re.compile(r'\{(reference|predicted)\}')


def following(example: Example) -> str:
  """Returns the text of all segments that follow, for the prefix reward."""
  # Segments cover the text without gaps, so joining them restores it.
  return ''.join(example.references).strip()


def asked(example: Example) -> str:
  """Returns only the segment that was asked for, for the strict reward."""
  return ''.join(example.references[:1]).strip()


class Judged(Reward):
  """The base class of rewards that ask a judge about each prediction.

  A prediction that is too short gets 0 without being asked about. Equal
  questions are asked only once.
  """

  reference: Reference
  find: extract.Extract
  min_share: float
  prompt: str

  def __post_init__(self):
    checks.check_fields(self)
    if missing := {'reference', 'predicted'} - set(_PLACE.findall(self.prompt)):
      raise ValueError(f'prompt: expected {{{min(missing)}}} in it.')

  @abc.abstractmethod
  def verdicts(self, questions: list[str]) -> list[Verdict]:
    """Returns the judge's verdict on each question."""

  def __call__(self, examples, completions) -> Scores:
    scores.check_groups(examples, completions)
    outcomes: list[Verdict | str] = []  # A str is a question to be asked.
    for example, group in zip(examples, completions, strict=True):
      expected = self.reference(example)
      least = _least_words(example, self.min_share)
      for text in group:
        answer = self.find(text)
        if not expected:
          outcomes.append(Verdict(math.nan, 'gold/empty'))
        elif answer.text is None:
          outcomes.append(Verdict(0.0, answer.reason))
        elif len(tokens(answer.text)) < least:
          outcomes.append(Verdict(0.0, 'short'))
        else:
          outcomes.append(_filled(self.prompt, expected, answer.text))
    questions = list(dict.fromkeys(x for x in outcomes if isinstance(x, str)))
    given = self.verdicts(questions) if questions else []
    if len(given) != len(questions):
      raise ValueError(
        f'the judge gave {len(given)} answers to {len(questions)} questions; '
        'expected one answer per question, in their order.'
      )
    verdict = dict(zip(questions, given, strict=True))
    flat = [verdict[x] if isinstance(x, str) else x for x in outcomes]
    return scores.grouped(flat, len(examples))


@dataclasses.dataclass(frozen=True)
class ByAnswer(Judged):
  """Rewards 1 or 0, as the judge says in its answer."""

  complete: Complete
  _: dataclasses.KW_ONLY
  reference: Reference = following
  find: extract.Extract = extract.prediction
  min_share: Share = 0.5
  prompt: str = PROMPT

  def verdicts(self, questions: list[str]) -> list[Verdict]:
    return [
      read(answer)._replace(answer=answer)
      for answer in self.complete(questions)
    ]

  def try_out(self) -> list[Verdict]:
    """Returns the verdicts on TRIAL_PAIRS, bypassing any cache of answers.

    Returns [] unless the judge is behind a URL: only such a judge has
    `ask_now`.
    """
    if not hasattr(self.complete, 'ask_now'):
      return []
    questions = [_filled(self.prompt, *pair) for pair in TRIAL_PAIRS]
    answers = self.complete.ask_now(questions)
    return [read(answer)._replace(answer=answer) for answer in answers]


@dataclasses.dataclass(frozen=True)
class ByProbability(Judged):
  """Compares the probabilities of 'Score: 0' and 'Score: 1', P(0) and P(1).

  Without a threshold, the reward is the share P(1) / (P(0) + P(1)). With a
  threshold, it is 1 if that share is at least the threshold, and 0 otherwise.
  """

  score: Score
  _: dataclasses.KW_ONLY
  reference: Reference = following
  find: extract.Extract = extract.prediction
  min_share: Share = 0.5
  threshold: PositiveShare | None = 0.5
  prompt: str = PROMPT

  def verdicts(self, questions: list[str]) -> list[Verdict]:
    return [
      weigh(*pair, threshold=self.threshold) for pair in self.score(questions)
    ]


def read(answer: str | None) -> Verdict:
  """Returns the verdict that a judge's answer states.

  The module's docstring lists the forms of a verdict.
  """
  if answer is None:
    return Verdict(math.nan, 'judge/failed')
  text, *_ = extract.after_thinking(answer)
  if text is None:
    return Verdict(math.nan, 'judge/unparsable')
  if bare := _BARE.match(text.strip()):
    return _of(bare[1] == '1')
  places = [match.end() for match in _SCORE.finditer(text)]
  if {'0', '1'} <= {text[place] for place in places}:
    return Verdict(math.nan, 'judge/both')
  numbers = [_NUMBER.match(text, place) for place in places]
  if not numbers or None in numbers:
    return Verdict(math.nan, 'judge/unparsable')
  return _of(numbers[0][1] == '1')


def weigh(
  logprob_0: float,
  logprob_1: float,
  *,
  threshold: float | None = 0.5,
  min_mass: float = 0.01,
) -> Verdict:
  """Returns the verdict, given the log-probabilities of the scores 0 and 1.

  min_mass: the least total probability of the two scores. Below it, the judge
    was about to say something else, so there is no verdict.
  """
  if math.isnan(logprob_0) or math.isnan(logprob_1):
    return Verdict(math.nan, 'judge/failed')
  mass = math.exp(logprob_0) + math.exp(logprob_1)
  if mass < min_mass or mass == 0:
    return Verdict(math.nan, 'judge/neither')
  share = math.exp(logprob_1) / mass
  if threshold is None:
    return Verdict(share, 'graded')
  return _of(share >= threshold)


def _of(is_right: bool) -> Verdict:
  return Verdict(1.0, 'right') if is_right else Verdict(0.0, 'wrong')


def _least_words(example: Example, min_share: float) -> int:
  """Returns the number of `text_match.tokens` that a prediction needs."""
  if not example.references:
    return 0
  return math.ceil(min_share * len(tokens(example.references[0])))


def _filled(prompt: str, reference: str, predicted: str) -> str:
  """Returns the prompt with both texts filled in.

  They are filled in at once, because one may contain the other's placeholder.
  """
  texts = {'reference': reference, 'predicted': predicted}
  return _PLACE.sub(lambda match: texts[match[1]], prompt)
