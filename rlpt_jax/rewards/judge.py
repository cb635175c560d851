"""The generative reward model (RLPT, 2509.19249, section 3.2): a judge is asked
whether a prediction means the same as a prefix of what really follows.

Two references: `following`, all segments joined as in the text (the paper's
prefix reward), and `asked`, the one segment (its strict reward, for which the
paper prints no prompt: it is asked by the same one).

Two ways to ask: `by_answer` reads what the judge says, `by_probability`
compares how probable it finds 'Score: 0' and 'Score: 1', and decodes nothing.

What an answer must be to count, once thoughts (up to </think>) are taken away:

  Score: 1   **Score:** 0   - score = 1.   SCORE：1   "score": 1}   Score -> 1
  Score: 1, since it says the same.   Score: 0 (it does not)   <score>1</score>
  1   **0**   - 1.                                     if nothing else is said

A score ends with its line, or a word goes on that is no part of a number; the
text around it may say anything else. Every number that is called a score must
be the same, 0 or 1, and be the whole number. So these are no verdict: 'Score:
10', '0.5', '1/2', '1 / 10', '1 out of 10', '-1', '0-1', '0 or 1', '1%', a
thought that does not end, and an answer that gives both scores, such as the two
lines of the prompt repeated. Everything takes time linear in the answer.

The reasons: 'right' and 'wrong', or 'graded'; 'format/...' where there is no
prediction and 'short' where it is too short (0, and the judge is not asked);
NaN for 'judge/failed' (no answer), 'judge/unparsable', 'judge/both',
'judge/neither' (both scores improbable) and 'gold/empty'.

The paper names no guard against a prefix as short as 'The', which its prompt
passes. Ours: `min_share` of the first segment's words. The count of 'short' is
its effect.
"""

import math
import re
from collections.abc import Callable, Sequence

from rlpt_jax.core import checks
from rlpt_jax.core.checks import PositiveShare, Share
from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.scores import Reward, Verdict
from rlpt_jax.rewards.text_match import tokens

# Prompts -> answers, None where there is none.
Complete = Callable[[list[str]], Sequence[str | None]]
# Prompts -> log-probabilities of 'Score: 0' and 'Score: 1', NaN where unknown.
Score = Callable[[list[str]], Sequence[tuple[float, float]]]
Reference = Callable[[Example], str]

# Literally; line breaks are recovered from a PDF.
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

# References and predictions to try a judge with: whatever the verdicts are.
TRIED = (
  ('The cat sat on the mat. It was warm.', 'The cat sat on the mat.'),
  ('The cat sat on the mat. It was warm.', 'There was a cat on the mat.'),
  ('Two and three are five.', 'It rained all day.'),
)

# What may stand between the word and the number, and before a bare number. A
# dash that touches the number is a minus.
_BEFORE = r'(?:[-=]>|[\s*_`"\'|:：=→({\[]|[-–—](?=\s))'
_AFTER, _BLANK = r'*_`"\')}\]|）】', r'[^\S\n]'
_SCORE = re.compile(
  rf'(?<!\w)score>?{_BEFORE}{{0,20}}(?=[^\w\s]{{0,3}}\d)', re.IGNORECASE
)
# The whole number: its line ends, or a word goes on that is no part of it.
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
  """All that follows: the reference of the prefix reward."""
  return ''.join(example.references).strip()  # Segments tile the text.


def asked(example: Example) -> str:
  """The one segment: the reference of the strict reward."""
  return ''.join(example.references[:1]).strip()


def by_answer(
  complete: Complete,
  *,
  reference: Reference = following,
  find: extract.Extract = extract.prediction,
  min_share: Share = 0.5,
  prompt: str = PROMPT,
) -> Reward:
  """The reward that reads the score in what the judge says."""
  checks.check_arguments(by_answer, locals())

  def verdicts(questions: list[str]) -> list[Verdict]:
    return [
      read(answer)._replace(answer=answer) for answer in complete(questions)
    ]

  reward = _judged(verdicts, reference, find, min_share, prompt)
  if hasattr(complete, 'ask_now'):
    # A judge behind a URL can be tried before anything is sampled.
    questions = [_filled(prompt, *pair) for pair in TRIED]
    reward.try_judge = lambda: [
      read(answer)._replace(answer=answer)
      for answer in complete.ask_now(questions)
    ]
  return reward


def by_probability(
  score: Score,
  *,
  reference: Reference = following,
  find: extract.Extract = extract.prediction,
  min_share: Share = 0.5,
  threshold: PositiveShare | None = 0.5,
  prompt: str = PROMPT,
) -> Reward:
  """The reward that weighs the two scores: P(1) / (P(0) + P(1)), or, given a
  threshold, 1 where that is at least the threshold and 0 elsewhere.
  """
  checks.check_arguments(by_probability, locals())

  def verdicts(questions: list[str]) -> list[Verdict]:
    return [weigh(*pair, threshold=threshold) for pair in score(questions)]

  return _judged(verdicts, reference, find, min_share, prompt)


def read(answer: str | None) -> Verdict:
  """The verdict in an answer; see above for what counts."""
  if answer is None:
    return Verdict(math.nan, 'judge/failed')
  said, _ = extract.after_thinking(answer)
  if said is None:
    return Verdict(math.nan, 'judge/unparsable')
  if bare := _BARE.match(said.strip()):
    return _of(bare[1] == '1')
  places = [match.end() for match in _SCORE.finditer(said)]
  if {'0', '1'} <= {said[place] for place in places}:
    return Verdict(math.nan, 'judge/both')
  numbers = [_NUMBER.match(said, place) for place in places]
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
  """The verdict of two log-probabilities. `min_mass`: what both must have
  together: below it the judge was about to say something else altogether.
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


def _judged(
  verdicts: Callable[[list[str]], list[Verdict]],
  reference: Reference,
  find: extract.Extract,
  min_share: float,
  prompt: str,
) -> Reward:
  """Asks about every prediction that is long enough, once about equal ones."""
  if missing := {'reference', 'predicted'} - set(_PLACE.findall(prompt)):
    raise ValueError(f'prompt: has no {{{min(missing)}}} to be filled in.')

  def reward(examples, completions):
    scores.check_groups(examples, completions)
    found: list[Verdict | str] = []  # What is a text is a question.
    for example, group in zip(examples, completions, strict=True):
      expected = reference(example)
      least = _least_words(example, min_share)
      for text in group:
        answer = find(text)
        if not expected:
          found.append(Verdict(math.nan, 'gold/empty'))
        elif answer.text is None:
          found.append(Verdict(0.0, answer.reason))
        elif len(tokens(answer.text)) < least:
          found.append(Verdict(0.0, 'short'))
        else:
          found.append(_filled(prompt, expected, answer.text))
    questions = list(dict.fromkeys(x for x in found if isinstance(x, str)))
    given = verdicts(questions) if questions else []
    if len(given) != len(questions):
      raise ValueError(
        f'the judge gave {len(given)} answers to {len(questions)} questions; '
        'expected one for each, in their order.'
      )
    verdict = dict(zip(questions, given, strict=True))
    flat = [verdict[x] if isinstance(x, str) else x for x in found]
    return scores.grouped(flat, len(examples))

  return reward


def _least_words(example: Example, min_share: float) -> int:
  """Words, CJK characters and numbers that a prediction must have."""
  if not example.references:
    return 0
  return math.ceil(min_share * len(tokens(example.references[0])))


def _filled(prompt: str, reference: str, predicted: str) -> str:
  """The question. In one pass: what is filled in may have braces itself."""
  texts = {'reference': reference, 'predicted': predicted}
  return _PLACE.sub(lambda match: texts[match[1]], prompt)
