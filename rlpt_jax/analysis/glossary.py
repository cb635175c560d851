"""Explanations of the short words in a run's files."""

# Tasks.
KINDS = {
  'asr': 'the next segment',
  'msr': 'a missing segment',
  'rlvr': 'questions',
  'choose_span': 'a span to hide',
  'predict_span': 'a hidden span',
}
# Reasons of rewards, from best to worst.
REASONS = {
  'right': 'correct, according to the reward',
  'partly': 'partly correct',
  'graded': 'the judge gave a grade between 0 and 1',
  'scored': 'a number, not a verdict',
  'clipped': 'a number beyond a bound, set to that bound',
  'wrong': 'incorrect, according to the reward',
  'short': 'the prediction was too short to ask the judge; reward 0',
  'long': 'the answer was too long to check; reward 0',
  'unparsable': 'the answer cannot be parsed as mathematics; reward 0',
  'timeout': 'the answer took too long to check; reward 0',
  'memory': 'the answer took too much memory to check; reward 0',
  'crash': 'the answer crashed the checker; reward 0',
  'format/open': 'the prediction was opened and never closed; reward 0',
  'format/empty': 'the prediction is empty; reward 0',
  'format/missing': 'there is no prediction; reward 0',
  'format/thinking': 'the answer ended before its thinking did; reward 0',
  'judge/failed': 'the judge did not answer; left out',
  'judge/unparsable': 'the judge gave no readable score; left out',
  'judge/both': 'the judge gave two scores; left out',
  'judge/neither': 'the judge found neither score probable; left out',
  'none': 'the reward gave no number; left out',
  'likelihood/infinite': 'the likelihood is not a finite number; left out',
  'gold/empty': 'the reference is empty; left out',
  'gold/long': 'the reference is too long; left out',
  'gold/crash': 'the reference crashed the checker; left out',
  'gold/timeout': 'the reference took too long to check; left out',
  'gold/memory': 'the reference took too much memory to check; left out',
  'gold/unparsable': 'the reference cannot be parsed; left out',
  'killed': 'the machine killed the check; left out',
  'stalled': 'the machine stalled; left out',
  'lost': 'the check was lost; left out',
}
# What became of a chosen span (rollout/game.py, data/masks.py).
SPANS = {
  'some': 'some of its predictions are right; it earns the share of the others',
  'nobody': 'none of its predictions is right; reward 0',
  'everybody': 'all of its predictions are right; reward 0',
  'no_verdict': 'its predictions have no verdict; left out',
  'not_found': 'it is not in the paragraph',
  'no_word': 'it has no word',
  'nothing_to_hide': 'the paragraph has nothing to hide',
  'whole': 'it is the whole paragraph',
  'not_a_sentence': 'it is not a sentence after the first one',
  'frequent': 'it occurs too often in the paragraph',
  'long': 'it is too long',
  'cut': 'it begins or ends inside a word',
  'mark': 'the paragraph has a mark already, which stands for a hidden span',
  'prompt_too_long': 'the prompt that asks for it is too long',
  'format/missing': 'the answer marks no span',
  'format/open': 'the mark of the span was opened and never closed',
  'format/empty': 'the marked span is empty',
  'format/thinking': 'the answer ended before its thinking did',
}
# Finish reasons.
ENDINGS = {
  'stop': 'it ended by itself',
  'length': 'it was cut off at the token limit',
}
ADVANTAGE = (
  'how much better than its group an answer is: an update makes answers above '
  '0 more probable and those below 0 less'
)
PART = (
  'another verdict on the same answers: a part of the reward, or only '
  'recorded; red where it disagrees with the reward'
)
EXAMPLE = (
  'where a text comes from: corpus / document, with @ and its position in the '
  'file / segment / task'
)
