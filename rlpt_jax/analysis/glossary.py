"""Explanations of the short words in a run's files."""

# Tasks.
KINDS = {
  'asr': 'the next segment',
  'msr': 'a missing segment',
  'rlvr': 'questions',
}
# Reasons of rewards, from best to worst.
REASONS = {
  'right': 'it says what was asked for, as the reward sees it',
  'partly': 'some of what was asked for',
  'graded': 'the judge gave a grade between 0 and 1',
  'scored': 'a number, not a verdict',
  'clipped': 'a number beyond a bound, which it was set to',
  'wrong': 'it says something else, as the reward sees it',
  'short': 'the prediction was too short to ask the judge; reward 0',
  'long': 'the answer was too long to look at; reward 0',
  'unparsable': 'the answer cannot be read as mathematics; reward 0',
  'timeout': 'the answer took too long to check; reward 0',
  'memory': 'the answer took too much memory to check; reward 0',
  'crash': 'the checker died of the answer; reward 0',
  'format/open': 'the prediction was begun and never closed; reward 0',
  'format/empty': 'nothing stands between its tags; reward 0',
  'format/missing': 'there is no prediction; reward 0',
  'format/thinking': 'the answer ended while it still thought; reward 0',
  'judge/failed': 'the judge did not answer; left out',
  'judge/unparsable': 'the judge gave no score that can be read; left out',
  'judge/both': 'the judge gave two scores; left out',
  'judge/neither': 'no score was probable to the judge; left out',
  'none': 'the reward gave no number; left out',
  'likelihood/infinite': 'a likelihood that is no number; left out',
  'gold/empty': 'there is nothing to compare with; left out',
  'gold/long': 'what to compare with is too long; left out',
  'gold/crash': 'the checker died of what to compare with; left out',
  'gold/timeout': 'what to compare with took too long; left out',
  'gold/memory': 'what to compare with took too much memory; left out',
  'gold/unparsable': 'what to compare with cannot be read; left out',
  'killed': 'the machine stopped the check; left out',
  'stalled': 'the machine stood still; left out',
  'lost': 'the check was lost; left out',
}
# Finish reasons.
ENDINGS = {
  'stop': 'it came to its own end',
  'length': 'it was cut at the limit of tokens',
}
ADVANTAGE = (
  'how much better than its group an answer is: an update makes what is above '
  '0 more probable, and what is below less'
)
PART = (
  'another verdict on the same answers: a part of the reward, or only looked '
  'at; red where it disagrees with the reward'
)
EXAMPLE = (
  'where a text is from: corpus / document, with @ and its place in the file / '
  'segment / task'
)
