"""Who hides what, who predicts it, and what both earn."""

import collections
import dataclasses
import functools
import json
import os
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.algorithms.kl import InReward
from rlpt_jax.analysis import report_page
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.data import mask_tasks, masks, prompts
from rlpt_jax.data.config import Data
from rlpt_jax.data.sources import Files
from rlpt_jax.llm.remote import Unavailable
from rlpt_jax.models.config import Compute
from rlpt_jax.programs import train_rl
from rlpt_jax.rewards import extract
from rlpt_jax.rewards import scores as scores_lib
from rlpt_jax.rewards.text_match import TextMatch, exact
from rlpt_jax.rollout import collect, game, rollout_files
from rlpt_jax.rollout.collector import Parts
from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.game import Game
from rlpt_jax.rollout.held_out import HeldOut
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollout_files import Kept
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.sampling.requests import Completion
from rlpt_jax.training.optimizer import AdamW
from tests.rollout import rollouts_test

BYTES = ByteTokenizer()
TOWN = 'The town lies on the river Aare, and an old bridge crosses it there.'
LAKE = 'A lake was dug near it in 1850, to drive the mills of three brothers.'
MATCH = TextMatch(exact, find=extract.boxed)


class Paragraphs:
  """A loader of some paragraphs, again and again or in so many batches."""

  tokenizer, position = BYTES, 0

  def __init__(self, *paragraphs, batches=None):
    self.paragraphs, self.batches = paragraphs, batches

  def __iter__(self):
    count = self.batches or len(self.paragraphs)
    for i in range(count):
      text = self.paragraphs[i % len(self.paragraphs)]
      example = Example(
        np.array(BYTES.encode(text), np.int32), (text,), 'choose_span',
        'corpus', f'd{i}', 0,
      )  # fmt: skip
      yield SimpleNamespace(examples=[example], position=i + 1)

  def close(self):
    pass


class Sampler:
  """Says what `answers` gives for the text of a prompt, one after the other."""

  version = 0

  def __init__(self, answers):
    self.answers, self.sampled = answers, []

  def complete(self, requests, tokenizer, stop):
    for request in requests:
      self.sampled.append(request.id)
      texts = self.answers(BYTES.decode(request.prompt_tokens), request.samples)
      assert len(texts) == request.samples
      yield [self.sample(text) for text in texts]

  def sample(self, text):
    tokens = np.array(BYTES.encode(text) or [0], np.int32)
    zeros = np.zeros(len(tokens), np.float32)
    completion = Completion(
      tokens=tokens, logprobs=zeros, policy_logprobs=zeros,
      is_own=zeros == 0, versions=np.zeros(len(tokens), np.int32),
      finish_reason='stop', prompt_version=0,
    )  # fmt: skip
    return SimpleNamespace(
      text=text, finish_reason='stop', completion=completion
    )


class Entropies:
  """The policy is the less certain, the later a token is."""

  def __init__(self, texts):
    self.texts, self.computed = texts, []

  def look(self, i):
    self.computed = [len(text) for text in self.texts]
    return np.arange(len(self.texts[i]))


def parts_of(answers, prompts, count, samples=4, **options):
  rollouts = rollouts_test.make_rollouts(MATCH)
  rollouts.sampler = Sampler(answers)
  rollouts.tokenizer, rollouts.entropies = BYTES, Entropies
  return Parts(
    prompts=prompts, rollouts=rollouts, take=None,
    make_experience=lambda roles, **more: (roles, SimpleNamespace(**more)),
    sampling=Sampling(samples=samples), count=count,
    **{'collect': collect.keep} | options,
  )  # fmt: skip


def play(answers, *paragraphs, play=None, **options):
  """Returns (the roles of a step, what the experience was made with)."""
  prompts = Prompts(Paragraphs(*paragraphs), Curriculum(None))
  parts = parts_of(answers, prompts, len(paragraphs), **options)
  return (*(play or Game())(parts), parts.rollouts.sampler)


def answers_of(spans, right):
  """Chooses these spans of each paragraph; `right[span]` predictions are right.

  A prediction is asked for by a passage, which is a paragraph without the span.
  """

  def answers(prompt, samples):
    if masks.MARK not in prompt:
      return [rf'\mask{{{span}}}' for span in spans]
    (span,) = {
      span for span in spans
      for text in (TOWN, LAKE)
      if span in text and text.replace(span, masks.MARK) in prompt
    }  # fmt: skip
    wrong = samples - right[span]
    return [rf'\boxed{{{span}}}'] * right[span] + [r'\boxed{no}'] * wrong

  return answers


def test_both_roles_and_what_they_earn():
  spans = ['bridge', 'Aare', 'town', 'Paris']
  right = {'bridge': 4, 'Aare': 1, 'town': 0}
  (predictor, chooser), more, sampler = play(answers_of(spans, right), TOWN)
  judged = predictor.groups.judged
  assert [e.references for e in judged.examples] == [
    ('bridge',), ('Aare',), ('town',)
  ]  # fmt: skip
  assert [e.kind for e in judged.examples] == ['predict_span'] * 3
  assert len({e.id for e in judged.examples}) == 3
  assert judged.rewards_PG.tolist() == [[1] * 4, [1, 0, 0, 0], [0] * 4]
  assert (predictor.num_prompts, predictor.num_samples) == (4, 4)
  assert (chooser.num_prompts, chooser.num_samples) == (1, 4)
  assert chooser.name == 'chooser' and chooser.groups.learned_P.all()
  judged = chooser.groups.judged
  assert judged.rewards_PG.tolist() == [[0, 0.75, 0, 0]]
  reasons = ['everybody', 'some', 'nobody', 'not_found']
  assert judged.scores.reasons_PG.tolist() == [reasons]
  name = '0/corpus/d0/0/choose_span'
  assert more.names == [name, *(f'{name}/{g}' for g in range(3))]
  assert sampler.sampled == list(more.names)
  metrics = more.curriculum
  assert metrics['game/usable_share'] == 3 / 4
  assert metrics['game/nobody_share'] == 1 / 3
  assert metrics['game/everybody_share'] == 1 / 3
  assert metrics['game/accuracies'].tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
  assert metrics['game/words'] == 1 and metrics['game/occurrences'] == 1


def test_equal_masks_are_predicted_once_and_earn_the_same():
  spans = ['Aare', 'Aare', 'river', 'Aare']
  right = {'Aare': 1, 'river': 2}
  (predictor, chooser), more, sampler = play(answers_of(spans, right), TOWN)
  assert len(predictor.groups.judged.examples) == 2
  assert chooser.groups.judged.rewards_PG.tolist() == [[0.75, 0.75, 0.5, 0.75]]
  assert len(sampler.sampled) == 3
  assert more.curriculum['game/distinct_share'] == 2 / 4
  assert more.curriculum['game/top_share'] == 3 / 4


def test_equal_masks_of_two_paragraphs_are_two():
  both = [TOWN, TOWN]
  (predictor, _), _, _ = play(answers_of(['Aare'] * 4, {'Aare': 1}), *both)
  assert len(predictor.groups.judged.examples) == 2


def test_notes_connect_predictions_with_what_chose_their_span():
  spans = ['Aare', 'river', 'Paris', 'Aare']
  roles, *_ = play(answers_of(spans, {'Aare': 1, 'river': 2}), TOWN, TOWN)
  predictor, chooser = (role.groups.judged.examples for role in roles)
  # The same paragraph twice, so ids would not do.
  assert [e.notes for e in chooser] == [{'paragraph': 0}, {'paragraph': 1}]
  start, end = TOWN.split('Aare')
  assert [e.notes for e in predictor[2:]] == [
    {'paragraph': 1, 'passage': [start, end], 'chosen_by': [0, 3]},
    {'paragraph': 1, 'passage': TOWN.split('river'), 'chosen_by': [1]},
  ]


def test_a_report_finds_the_spans_in_their_paragraph():
  roles, *_ = play(answers_of(['Aare'] * 4, {'Aare': 1}), TOWN)
  lines = [
    line
    for role in roles
    for line in rollout_files.lines(
      role.groups.judged, np.zeros((1, 4)), BYTES, 0,
      find_answer=role.find_answer or extract.boxed,
    )
  ]  # fmt: skip
  predicted, chosen = report_page.groups(lines)
  assert TOWN[slice(*predicted['places'][0])] == 'Aare'
  answer = chosen['answers'][3]
  assert answer['text'][slice(*answer['answer'])] == 'Aare'


@pytest.mark.parametrize(
  'choose', [masks.random_span, masks.next_token, masks.uncertain_token]
)
def test_a_report_finds_spans_that_chance_has_chosen(choose):
  (role,), *_ = play(wrong, TOWN, LAKE, play=Game(choose=choose))
  groups = report_page.groups(
    rollout_files.lines(
      role.groups.judged, np.zeros((8, 4)), BYTES, 0, find_answer=extract.boxed
    )
  )
  texts = [group['text'] for group in groups if 'text' in group]
  assert texts == [TOWN, LAKE]
  for group in groups:
    text, (place,) = texts[group['paragraph']], group['places']
    assert text[slice(*place)] == group['references'][0]
    assert group['ends'] == (choose is not masks.random_span)


def test_a_choice_may_mean_a_span_in_other_letters():
  answers = answers_of(['AARE', 'bridge', 'Rome', 'AARE'], {'Aare': 1})

  def locate(paragraph, text):
    assert paragraph == TOWN
    return text.title() if text == 'AARE' else text

  def said(prompt, samples):
    if masks.MARK not in prompt:
      return answers(prompt, samples)
    return answers_of(['Aare', 'bridge'], {'Aare': 1, 'bridge': 4})(
      prompt, samples
    )

  (predictor, chooser), *_ = play(said, TOWN, play=Game(locate=locate))
  spans = [e.references for e in predictor.groups.judged.examples]
  assert spans == [('Aare',), ('bridge',)]
  assert chooser.groups.judged.rewards_PG.tolist() == [[0.75, 0, 0, 0.75]]


def test_a_step_without_a_usable_span_has_nothing_to_predict():
  answers = answers_of(['Paris', 'Rome', 'Paris', ''], {})
  (predictor, chooser), more, _ = play(
    answers, TOWN, play=Game(unusable=-0.5), collect=collect.drop,
    exclude=(collect.truncated,),
    # As KL penalties, which need a group.
    penalize=lambda groups: groups.judged.rewards_PG.max() and groups,
  )  # fmt: skip
  assert predictor.groups.judged.examples == []
  assert predictor.groups.learned_P.shape == (0,)
  assert chooser.groups.judged.rewards_PG.tolist() == [[-0.5] * 4]
  assert more.curriculum['game/usable_share'] == 0
  assert more.curriculum['game/unusable/not_found'] == 3 / 4
  assert more.curriculum['game/unusable/format/empty'] == 1 / 4
  assert more.curriculum['game/accuracies'].sum() == 0


def test_groups_that_all_predict_or_none_are_dropped():
  spans = ['bridge', 'Aare', 'town', 'river']
  right = {'bridge': 4, 'Aare': 1, 'town': 0, 'river': 3}
  (predictor, chooser), *_ = play(
    answers_of(spans, right), TOWN, collect=collect.drop
  )
  assert predictor.groups.learned_P.tolist() == [False, True, False, True]
  assert chooser.groups.learned_P.tolist() == [True]


@pytest.mark.parametrize('unusable', [0, -1])
def test_rewards_are_not_rounded_to_whole_numbers(unusable):
  answers = answers_of(['Aare', 'Paris', 'Aare', 'Aare'], {'Aare': 1})
  (_, chooser), *_ = play(answers, TOWN, play=Game(unusable=unusable))
  rewards_PG = chooser.groups.judged.rewards_PG
  assert rewards_PG.tolist() == [[0.75, unusable, 0.75, 0.75]]


def test_the_answer_of_a_chooser_is_its_span():
  roles, *_ = play(answers_of(['Aare'] * 4, {'Aare': 1}), TOWN)
  assert [role.find_answer for role in roles] == [None, extract.masked]


def test_what_is_excluded_counts_for_its_span_all_the_same():
  def first(judged):
    return np.tile(np.arange(4) == 0, (len(judged.examples), 1))

  spans = ['bridge', 'Aare', 'town', 'river']
  right = dict.fromkeys(spans, 2)
  (predictor, chooser), *_ = play(
    answers_of(spans, right), TOWN, exclude=(first,)
  )
  rewards_PG = predictor.groups.judged.rewards_PG
  assert (
    np.isnan(rewards_PG[:, 0]).all() and not np.isnan(rewards_PG[:, 1:]).any()
  )
  rewards_PG = chooser.groups.judged.rewards_PG
  np.testing.assert_array_equal(rewards_PG, [[np.nan, 0.5, 0.5, 0.5]])


def test_a_prompt_that_is_too_long_is_not_sampled():
  task = mask_tasks.PredictSpan()
  whole = len(task.prompt(masks.Mask('', TOWN), BYTES))
  task = dataclasses.replace(task, max_prompt_tokens=whole + 10)
  spans = ['bridge', 'e', 'r', 'Aare']  # Many marks, each longer than a letter.
  rules = (functools.partial(masks.limits, max_occurrences=20),)
  (predictor, chooser), *_ = play(
    answers_of(spans, {'bridge': 1, 'Aare': 1}), TOWN,
    play=Game(task=task, rules=rules),
  )  # fmt: skip
  reasons = chooser.groups.judged.scores.reasons_PG[0].tolist()
  assert reasons == ['some', 'prompt_too_long', 'prompt_too_long', 'some']
  for example in predictor.groups.judged.examples:
    assert len(example.prompt_tokens) <= task.max_prompt_tokens


def wrong(prompt, samples):
  assert masks.MARK in prompt
  return [r'\boxed{no}'] * samples


@pytest.mark.parametrize(
  'choose', [masks.random_span, masks.next_token, masks.uncertain_token]
)
def test_spans_by_chance_leave_one_role(choose):
  def run():
    made = Game(choose=choose)
    assert made.roles == ('',) and made.sizes(2, Sampling(samples=4)) == (8,)
    return play(wrong, TOWN, LAKE, play=made)

  (predictor,), more, sampler = run()
  (again,), *_ = run()
  examples = predictor.groups.judged.examples
  assert 4 < len(examples) <= 8
  assert [e.references for e in examples] == [
    e.references for e in again.groups.judged.examples
  ]
  counts = collections.Counter(e.document for e in examples)
  assert set(counts) == {'d0/0', 'd1/0'}
  assert not any('chooser' in name for name in more.names)
  assert len(sampler.sampled) == len(examples)
  assert more.curriculum['game/nobody_share'] == 1
  looked = choose is masks.uncertain_token
  assert more.scored == ([len(TOWN), len(LAKE)] if looked else [])


def test_next_tokens_are_references_of_their_prediction():
  for choose in masks.next_token, masks.uncertain_token:
    (predictor,), *_ = play(wrong, TOWN, play=Game(choose=choose))
    for example in predictor.groups.judged.examples:
      prompt = BYTES.decode(example.prompt_tokens)
      before = prompt.partition('by [mask]: ')[2].partition(masks.MARK)[0]
      rest, found = TOWN.removeprefix(before), ''.join(example.references)
      assert rest != TOWN and rest.lstrip()[:32].rstrip().startswith(found[:32])
      assert len(example.references[0]) == 1
      assert (len(example.references) > 1) == (len(rest.strip()) > 1)
      # The most uncertain fifth of the tokens are the last that are visible.
      fifth = len(TOWN.replace(' ', '')) / 5
      is_last = len(rest.replace(' ', '')) <= fifth
      assert is_last or choose is masks.next_token


def test_nothing_to_hide():
  """A character is no whole token here."""
  (predictor,), more, _ = play(
    wrong, '苏黎世位于利马特河畔。', play=Game(choose=masks.next_token)
  )
  assert predictor.groups.judged.examples == []
  assert more.curriculum['game/unusable/nothing_to_hide'] == 1


def cold_steps(made, *, drawn=0, count=1, batches=6):
  """For each step, (number of spans' groups, number of predictions' groups)."""
  loader = Paragraphs(TOWN, LAKE, batches=batches - drawn)
  spans = ['bridge', 'Aare', 'town', 'mills']

  def answers(prompt, samples):
    if masks.MARK in prompt:
      return [r'\boxed{no}'] * samples
    return [rf'\mask{{{span}}}' for span in spans]

  prompts = Prompts(loader, Curriculum(None), drawn)
  parts, found = parts_of(answers, prompts, count), []
  while (experience := made(parts)) is not None:
    (predictor, chooser), _ = experience
    assert chooser.name == 'chooser' and chooser.find_answer
    assert (chooser.num_prompts, chooser.num_samples) == (count, 4)
    assert chooser.groups.judged.rewards_PG.shape[1] == 4
    groups = [len(x.groups.judged.examples) for x in (chooser, predictor)]
    assert groups[1] > 0 and len(chooser.groups.learned_P) == groups[0]
    found.append(groups[0])
  return found


def test_random_steps_end_at_their_step_wherever_the_run_resumes():
  made = Game(random_steps=3)
  assert made.roles == ('', 'chooser')
  whole = cold_steps(made)
  assert whole == [0, 0, 0, 1, 1, 1]
  for drawn in range(6):
    assert cold_steps(made, drawn=drawn) == whole[drawn:]
  assert cold_steps(Game()) == [1] * 6


def test_random_steps_of_data_that_end():
  assert cold_steps(Game(random_steps=2), count=2, batches=5) == [0, 0, 1]
  assert cold_steps(Game(random_steps=3), count=2, batches=5) == [0, 0, 0]
  assert cold_steps(Game(random_steps=9), count=2, batches=5) == [0, 0, 0]


@pytest.mark.parametrize('choose', [masks.random_span, masks.uncertain_token])
def test_random_steps_predict_what_chance_chooses(choose):
  made = Game(random_steps=1, random_choose=choose)
  (cold, _), cold_more, _ = play(wrong, TOWN, LAKE, play=made)
  (chance,), more, _ = play(wrong, TOWN, LAKE, play=Game(choose=choose))
  assert cold.groups.judged.rewards_PG.shape[0] > 4
  assert [e.prompt_tokens.tolist() for e in cold.groups.judged.examples] == [
    e.prompt_tokens.tolist() for e in chance.groups.judged.examples
  ]
  assert cold_more.names == more.names and cold_more.scored == more.scored


def test_what_chooses_is_checked():
  for name in 'choose', 'random_choose':
    with pytest.raises(ValueError, match=rf'^game\.Game\.{name}: expected a f'):
      Game(**{name: masks.num_words})
  with pytest.raises(ValueError, match=r'Game\.random_steps=2: expected 0'):
    Game(choose=masks.next_token, random_steps=2)
  with pytest.raises(ValueError, match=r'Game\.random_steps=-1: expected'):
    Game(random_steps=-1)
  with pytest.raises(ValueError, match=r'random_steps=0: expected the number'):
    Game(random_choose=masks.next_token)


def test_the_data_end():
  rollouts = rollouts_test.make_rollouts(MATCH)
  parts = Parts(
    prompts=Prompts(Paragraphs(), Curriculum(None)), rollouts=rollouts,
    take=None, make_experience=None, sampling=Sampling(), count=2,
    collect=collect.keep,
  )  # fmt: skip
  assert Game()(parts) is None


def test_predictions_may_be_sampled_in_another_way_but_not_hotter():
  short = Sampling(samples=3, max_new_tokens=7)
  made = Game(predictions=short)
  assert made.samplings(Sampling()) == (short, Sampling())
  by_chance = dataclasses.replace(made, choose=masks.random_span)
  assert by_chance.samplings(Sampling(samples=1)) == (short,)
  with pytest.raises(ValueError, match=r'Game\.predictions.*temperature'):
    made.samplings(Sampling(temperature=0.5))


def test_the_reward_of_a_mask():
  nan = np.nan
  matches_PG = np.array([
    [0, 0, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1],
    [1, 0, nan, nan, nan, nan, nan, nan],
    [nan, nan, nan, nan, nan, nan, nan, nan],
  ])  # fmt: skip
  np.testing.assert_array_equal(
    game.difficulty(matches_PG), np.float32([0, 7 / 8, 1 / 2, 0, 0.5, nan])
  )


# What a policy may write. More where there is time: RLPT_SPANS=10000 pytest -n0
# -k stops_the_game.
SPANS = int(os.environ.get('RLPT_SPANS', 150))
HOSTILE = (
  r'\mask{', r'\mask', r'\boxed{', '{', '}', r'\{', '\\', masks.MARK, '[mask',
  '.*', '(?:', ')', '[', ']', '^', '$', '|', '+', r'\b', r'\1', '.', 'Aare',
  'river ', '1850', ' ', '\n', '\ud800', '\x00', '\u0301', 'é', '苏', 'e',
  'mask', TOWN, '<think>', '</think>', prompts.MASK, prompts.SPAN, '{passage}',
)  # fmt: skip
GAMES = [
  Game(
    rules=rules, hide=hide,
    task=mask_tasks.PredictSpan(max_prompt_tokens=longest),
  )
  for rules in ((), (masks.whole_words,), (masks.limits, masks.whole_words))
  for hide in (masks.everywhere, masks.once)
  for longest in (400, 100_000)
]  # fmt: skip


@st.composite
def paragraphs_and_answers(draw):
  """(a paragraph, an answer with a span of it, or with anything else)."""
  some = st.lists(st.sampled_from(HOSTILE), max_size=6)
  pieces = [*draw(some), draw(st.sampled_from(HOSTILE))]
  start = draw(st.integers(0, len(pieces) - 1))
  end = draw(st.integers(start + 1, len(pieces)))
  span = ''.join(draw(st.just(pieces[start:end]) | some))
  begin = draw(st.sampled_from([0, 0, 0, 1, 2]))  # May cut a piece.
  before = ''.join(draw(st.just([]) | some))
  ending = draw(st.sampled_from(['}', '} done', '}}', r'\}', '']))
  answer = rf'{before}\mask{{{span[begin:]}{ending}'
  # The same text also predicts.
  answer += draw(st.sampled_from(['', rf'\boxed{{{span}}}']))
  return ''.join(pieces), answer


@hypothesis.settings(max_examples=SPANS)
@hypothesis.given(paragraphs_and_answers(), st.sampled_from(GAMES))
def test_no_span_stops_the_game(texts, game):
  paragraph, answer = texts
  roles, more, _ = play(
    lambda _, samples: [answer] * samples, paragraph, play=game, samples=2
  )
  predictor, chooser = (role.groups.judged for role in roles)
  span = extract.masked(answer).text
  is_usable = bool(span) and not masks.fault(paragraph, span, game.rules)
  ((reason, _),) = chooser.scores.reasons_PG.tolist()
  hypothesis.event(reason)
  after = 'prompt_too_long', 'nobody', 'everybody', 'no_verdict'
  assert is_usable == (reason in after)
  # Without limits, a span may be marks that no reward compares.
  assert reason != 'no_verdict' or masks.limits not in game.rules
  has_reward = np.isfinite(chooser.rewards_PG).all()
  assert has_reward == (reason != 'no_verdict')
  assert more.curriculum['game/usable_share'] == bool(predictor.examples)
  for example in predictor.examples:
    assert example.references == (span,)
    assert len(example.prompt_tokens) <= game.task.max_prompt_tokens
    assert example.prompt_tokens.tolist() in [
      game.task.prompt(masks.Mask(span, passage), BYTES)
      for passage in passages(paragraph, span, game.hide)
    ]


def passages(paragraph, span, hide):
  """Returns every passage that hiding may leave."""
  if hide is masks.everywhere:
    return [masks.MARK.join(paragraph.split(span))]
  places = [i for i in range(len(paragraph)) if paragraph.startswith(span, i)]
  return [
    paragraph[:i] + masks.MARK + paragraph[i + len(span) :] for i in places
  ]


# A whole run.

WORDS = ('bridge', 'river', 'mill', 'lake', 'road', 'tower')
# Without the paper's prompts, which are long in bytes.
SHORT = {'max_prompt_tokens': 128, 'min_tokens': 16}


def any_word(completion):
  """Finds a word in whatever a model without training says."""
  return extract.Answer(WORDS[len(completion.encode('utf-8', 'replace')) % 6])


def luck(examples, completions):
  """Pays a prediction for its first letters, which is chance."""
  return [[float(text < 'a') for text in group] for group in completions]


def text_of(i):
  return f'In {1800 + i} the {" and the ".join(WORDS)} were built.'


def config(folder, **changes):
  lines = [{'text': text_of(i)} for i in range(40)]
  path = folder / 'towns.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  task = mask_tasks.ChooseSpan(template='{paragraph}', **SHORT)
  predict = mask_tasks.PredictSpan(template='{passage}', **SHORT)
  options = {
    'model': 'random:tiny_qwen3',
    'data': Data(
      corpora=[Files(name='towns', files=str(path))], task=task, epochs=None
    ),
    'reward': luck,
    'optimizer': AdamW(learning_rate=1e-3),
    'collector': Game(find=any_word, task=predict),
    'collect': collect.drop,
    'num_steps': 4,
    'prompts': 4,
    'max_prompt_tokens': SHORT['max_prompt_tokens'],
    'sampling': Sampling(samples=4, max_new_tokens=8),
    'compute': Compute(dtype='float32'),
    'hardware': train_rl.Hardware(
      layout=Axes(devices=1), sampler_layout=Axes(devices=1),
      num_microbatches=2, slots=16,
    ),
    'rollouts': Kept(every=1),
  }  # fmt: skip
  return train_rl.Config(**options | changes)


def test_settings_that_do_not_fit_the_game(tmp_path):
  task = mask_tasks.PredictSpan(template='{passage}', **SHORT)
  whole = config(tmp_path)
  for changes, message in [
    ({'data': dataclasses.replace(whole.data, task=task)}, 'predict_span: exp'),
    ({'max_pass_rate': 0.5}, r'max_pass_rate=0\.5: expected None with'),
    ({'collect': collect.Refill()}, 'collect=.*: expected keep or drop'),
    ({'router_balance': 0.1}, r'router_balance=0\.1: expected 0'),
    ({'sampling': Sampling()}, None),
  ]:
    if message is None:
      dataclasses.replace(whole, **changes)
      continue
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(whole, **changes)


class Broken(scores_lib.Reward):
  """`luck`, but gone at one of its calls, once."""

  def __init__(self, file, call):
    self.file, self.call, self.calls = file, call, 0

  def settings(self):
    return {}

  def __call__(self, examples, completions):
    self.calls += 1
    if self.calls == self.call and not self.file.exists():
      self.file.touch()
      raise Unavailable('gone')
    return scores_lib.ask(luck, examples, completions)


@pytest.mark.slow
def test_a_judge_that_is_gone_uses_up_nothing(tmp_path):
  """In the first step, in held-out data after it, and in the second step."""
  task = mask_tasks.PredictSpan(template='{passage}', **SHORT)
  data = config(tmp_path).data
  held_out = HeldOut(
    data=dataclasses.replace(data, task=task), examples=4, every=1
  )
  written = {}
  for call in None, 2, 3, 4:
    workdir = tmp_path / f'gone at {call}'
    workdir.mkdir()
    settings = config(
      tmp_path, held_out=held_out, num_steps=3,
      reward=Broken(workdir / 'was gone', call),
      exclude=(collect.truncated,), kl=InReward(weight=0.01),
    )  # fmt: skip
    if call:
      with pytest.raises(Unavailable):
        train_rl.train_rl(settings, workdir=workdir)
    train_rl.train_rl(settings, workdir=workdir)
    written[call] = (workdir / 'metrics.jsonl').read_text()
  assert all(lines == written[None] for lines in written.values())


@pytest.mark.slow
def test_a_run_that_plays_resumes_to_the_last_bit(tmp_path):
  """It resumes while chance chooses; the policy does in the last step only."""
  whole, again = tmp_path / 'whole', tmp_path / 'again'
  settings = config(tmp_path)
  cold = dataclasses.replace(
    settings.collector, random_steps=3, random_choose=masks.uncertain_token
  )
  settings = dataclasses.replace(settings, collector=cold)
  train_rl.train_rl(settings, workdir=whole)
  for steps in 2, 4:
    train_rl.train_rl(
      dataclasses.replace(settings, num_steps=steps), workdir=again
    )
  lines = (whole / 'metrics.jsonl').read_text()
  assert lines == (again / 'metrics.jsonl').read_text()
  first, *_, step = map(json.loads, lines.splitlines())
  assert 'chooser/reward/mean' not in first and 'reward/mean' in first
  assert first['chooser/tokens_in_loss'] == 0 < first['tokens_in_loss']
  assert all(np.isfinite(x).all() for x in first.values())
  assert rollouts(whole, 0, 'choose_span') == []
  # Besides the prompts and completions of predictions, four paragraphs.
  scored = first['compute/rollout_tokens'] - sum(
    line['tokens'] + (line['sample'] == 0) * (len(line['prompt']) - 4)
    for line in rollouts(whole, 0, 'predict_span')
  )
  assert scored == 4 * len([*BYTES.encode(text_of(0)), BYTES.bos_id])
  assert step['chooser/reward/mean'] == pytest.approx(
    np.mean([line['reward'] for line in rollouts(whole, 3, 'choose_span')])
  )
  assert step['reward/mean'] == pytest.approx(
    np.mean([line['reward'] for line in rollouts(whole, 3, 'predict_span')])
  )
  assert step['game/usable_share'] == 1 and step['gradient_norm'] > 0
  assert step['tokens_in_loss'] > 0 and step['chooser/tokens_in_loss'] > 0
  assert step['sampler/gap_max'] < 1e-4 > step['chooser/sampler/gap_max']
  # Whoever chooses, and whatever the number of masks, the same update: each
  # start compiles it in its first step. The first run has compiled the rest.
  timing = (again / 'timing.jsonl').read_text().splitlines()
  compiled = [json.loads(line)['timing/compilations'] for line in timing]
  assert compiled[0] == compiled[1] > 0 < compiled[2] == compiled[3]


@pytest.mark.slow
def test_experts_learn_the_game(tmp_path):
  """With a mixture of experts, predictions soon earn all, and spans nothing."""
  settings = config(
    tmp_path, model='random:tiny_qwen3_moe', num_steps=6,
    optimizer=AdamW(learning_rate=5e-3),
    sampling=Sampling(samples=8, max_new_tokens=4),
  )  # fmt: skip
  train_rl.train_rl(settings, workdir=tmp_path / 'run')
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  rewards = [line['reward/mean'] for line in lines]
  assert min(rewards[-2:]) > max(rewards[:2]) + 0.3
  assert lines[-1]['chooser/reward/mean'] < lines[0]['chooser/reward/mean'] / 2
  for name in '', 'chooser/':
    assert lines[0][f'{name}router_balance'] >= 1
    assert max(line[f'{name}sampler/gap_max'] for line in lines) < 1e-4


def rollouts(workdir, step, kind):
  lines = rollout_files.read(workdir / f'rollouts/{step:08}.jsonl.gz')
  return [line for line in lines if line['kind'] == kind]
