"""PretrainZero's game on a report: spans in paragraphs, and predictions."""

import functools

import numpy as np
import pytest

from rlpt_jax.analysis import glossary, report_game, report_page
from rlpt_jax.analysis.report_page import Run
from rlpt_jax.core.types import Example
from rlpt_jax.data.masks import MARK, Mask
from rlpt_jax.rollout import game
from tests.analysis.report_page_test import NASTY, VISIBLE

NAN = np.nan
TEXT = f'😀 Aare and Aare: {NASTY} in the town.'


def lines(example, kind, prompt, references, answers, **notes):
  """Yields the lines of a group; answers: (text, reward, reason, advantage)."""
  for g, (text, reward, reason, advantage) in enumerate(answers):
    line = {
      'example': example, 'kind': kind, 'sample': g, 'prompt': prompt,
      'completion': f'{g}: {text}', 'references': references,
      'reward': reward, 'reason': reason, 'components': {},
      'advantage': advantage, 'finish_reason': 'stop', 'tokens': 5, **notes,
    }  # fmt: skip
    if text:
      line['answer'] = (3, 3 + len(text))
    yield line


def predictions(paragraph, g, span, answers, chosen_by, text=TEXT):
  pieces = text.split(span)
  return lines(
    f'a/d{paragraph}/0/{g}/predict_span', 'predict_span', MARK.join(pieces),
    [span], answers, paragraph=paragraph, passage=pieces, chosen_by=chosen_by,
  )  # fmt: skip


def step(_=0):
  """Two paragraphs, in which the policy chooses; the second has no span."""
  right, wrong = (1.0, 'right', 0.5), (0.0, 'wrong', -0.5)
  yield from predictions(
    0, 0, 'Aare',
    [('Aare', *right), (NASTY, *wrong), (NASTY, *wrong), ('\u202e', *wrong)],
    [0, 3],
  )  # fmt: skip
  nobody = [('Rhine', 0.0, 'wrong', None)] * 3
  nobody.append(('', 0.0, 'format/missing', None))
  yield from predictions(0, 1, 'town', nobody, [1])
  yield from predictions(0, 2, NASTY, [(NASTY, 1.0, 'right', None)] * 4, [4])
  yield from lines(
    'a/d0/0/choose_span', 'choose_span', f'Choose: {TEXT}', [TEXT],
    [
      ('Aare', 0.75, 'some', 1.5), ('town', 0.0, 'nobody', -0.5),
      ('in', 0.0, 'frequent', -0.5), ('Aare', 0.75, 'some', 1.5),
      (NASTY, 0.0, 'everybody', -0.5), ('in', 0.0, 'frequent', -0.5),
    ], paragraph=0,
  )  # fmt: skip
  yield from lines(
    'a/d0/0/choose_span', 'choose_span', f'Choose: {TEXT}', [TEXT],
    [('', 0.0, 'format/open', 0.0)] * 6, paragraph=1,
  )  # fmt: skip


def columns(num_steps=3):
  counts = np.zeros((num_steps, 10))
  counts[:, 0], counts[:, 9] = 1, 3
  counts[1] = 0  # No usable span.
  return {
    'step': np.arange(num_steps) * 1.0,
    'reward/mean': np.full(num_steps, 0.25),
    'chooser/reward/mean': np.full(num_steps, 0.5),
    'game/usable_share': np.array([0.75, 0.0, 1.0]),
    'game/unusable/cut': np.array([NAN, 1.0, NAN]),
    'game/unusable/odd': np.array([0.25, NAN, NAN]),
    'game/words': np.array([2.0, 0, 4.0]),
    **{f'game/accuracies/{i}': counts[:, i] for i in range(10)},
  }


def run(lines=step, name='a', **options):
  rollouts = [(1, lambda: [*lines()])] if lines else []
  return Run(name, options.get('columns', columns()), {}, rollouts)


# What the page is told.


def test_spans_are_placed_in_their_paragraph():
  aare, town, nasty, chooser, empty = report_page.groups([*step()])
  # An emoji is two units of a script's text.
  assert aare['places'] == [[3, 7], [12, 16]]
  units = TEXT.encode('utf-16-le', 'surrogatepass')
  (start, end), *_ = nasty['places']
  assert units[2 * start : 2 * end] == NASTY.encode(
    'utf-16-le', 'surrogatepass'
  )
  assert len(town['places']) == 1 and aare['chosen_by'] == [0, 3]
  assert 'passage' not in aare and 'text' not in aare
  assert [chooser['paragraph'], empty['paragraph']] == [0, 1]
  found = [aare, town, nasty, chooser, empty]
  assert [*map(report_game.is_chooser, found)] == [False] * 3 + [True] * 2


def by_chance(paragraph, references, pieces, text, reward=0.0):
  """Returns the line of a span that was chosen by chance."""
  answers = [('no', reward, 'wrong', None)]
  (line,) = lines(
    f'a/0/{references[0]}', 'predict_span', '', references, answers,
    paragraph=paragraph, passage=pieces, chosen_by=[0], text=text,
  )  # fmt: skip
  return line


def test_without_a_chooser_the_first_predictions_have_the_paragraph():
  first, second, other, wrong = report_page.groups([
    by_chance(0, ['b', ' c', ' d'], ['a', ''], 'a b c d'),
    by_chance(0, ['c', ' d'], ['a b', ''], 'a b c d'),
    by_chance(1, ['y'], ['x ', ' z'], 'x y z'),
    by_chance(2, ['y'], ['x ', ' w'], 'x y z'),
  ])  # fmt: skip
  assert first['text'] == 'a b c d' and 'text' not in second
  assert first['places'] == [[2, 3]] and second['places'] == [[4, 5]]
  assert other['text'] == 'x y z' and other['places'] == [[2, 3]]
  assert wrong['places'] == []
  assert [x['ends'] for x in (first, second, other)] == [True, True, False]


def test_a_passage_that_is_not_in_its_paragraph_has_no_places():
  """A `hide` may also change the rest."""
  changed = [
    line | {'passage': ['else ', '']} if 'passage' in line else line
    for line in step()
  ]
  assert [x['places'] for x in report_page.groups(changed)[:3]] == [[]] * 3


def test_shares_of_a_step_sum_to_one():
  found = report_game.shares(columns())
  validity, accuracy = found['validity'], found['accuracy']
  assert {name: [*values] for name, values in validity.items()} == {
    'usable': [0.75, 0, 1], 'cut': [0, 1, 0], 'odd': [0.25, 0, 0],
  }  # fmt: skip
  assert [*accuracy] == ['none right', 'all']  # No empty bin.
  np.testing.assert_array_equal(accuracy['all'], [0.75, NAN, 0.75])
  assert report_game.shares({'step': np.arange(3)}) == {}
  orders = report_game.plots([{}, columns()])
  assert orders['validity']['order'] == ['usable', 'cut', 'odd']


def metrics():
  """Returns the metrics of a paragraph with one usable span of two."""
  example = Example(np.zeros(0), ('a b',), 'choose_span', 'c', 'd', 0)
  choices = [[game.Choice(Mask('a', MARK)), game.Choice(None, 'cut')]]
  return functools.partial(game.metrics, [example], choices)


@pytest.mark.parametrize(
  'rate, name',
  [
    (0, 'none right'), (1 / 8, 'up to 1/8'), (3 / 16, 'up to 2/8'),
    (7 / 8, 'up to 7/8'), (15 / 16, 'almost all'), (1, 'all'),
  ],
)  # fmt: skip
def test_the_bins_are_those_of_the_game(rate, name):
  counts = metrics()([np.array([rate])])['game/accuracies']
  assert dict(zip(report_game.BINS, counts, strict=True))[name] == 1


def test_every_metric_of_the_game_is_drawn():
  drawn = {curve.key for curve in report_game.CURVES}
  drawn |= {'game/usable_share', 'game/unusable/cut', 'game/accuracies'}
  assert metrics()([np.zeros(4)]).keys() == drawn - {'chooser/reward/mean'}


# What the page shows.

CARDS = """
  const texts = (of, what) => [...of.querySelectorAll(what)].map(
    (e) => e.textContent);
  const cards = [...document.querySelectorAll('.group')];
  const open = async (row) => {
    row.querySelector('summary').click();
    await new Promise((f) => setTimeout(f, 50));
  };
"""


def test_a_paragraph_with_its_spans_and_who_predicted_them(show):
  browser = show([run()])
  found = browser.evaluate(
    CARDS
    + """
    const rows = [...cards[0].querySelectorAll('details.span')];
    const found = {
      titles: texts(document, '.group h3'),
      facts: texts(cards[0], ':scope > header > span'),
      count: byId('rollout-count').value,
      step: document.querySelector('.steps output').value,
      text: cards[0].querySelector('.paragraph').textContent,
      marks: [...cards[0].querySelectorAll('.paragraph mark')].map((e) =>
        [e.dataset.numbers, e.textContent, e.className]),
      chosen: rows.map((row) => texts(row, 'summary .cell:first-child')[0]),
      predicted: rows.map((row) => texts(row, 'summary .cell')[1]),
      empty: texts(cards[1], 'summary'),
      chips: texts(cards[0], '.chip .word[title*="no prediction"]'),
      before: cards[0].querySelectorAll('div.answer').length,
      meant: rows[3].querySelector('.word').title,
    };
    await open(rows[1]);
    found.said = texts(rows[1], '.said mark.answer');
    found.how = texts(rows[1], '.said .facts')[0];
    found.means = rows[1].querySelector('.said .word').title;
    found.selected = texts(cards[0], 'mark.chosen');
    found.addresses = [location.hash];
    cards[0].querySelector('.paragraph mark').click();
    await new Promise((f) => setTimeout(f, 50));
    found.both = texts(cards[0], 'mark.chosen');
    found.addresses.push(location.hash);
    found.answers = texts(rows[0], '.said .cell').map((text) =>
      text.match(/reward/g).length);
    found.ran = window.ran ?? null;
    found.images = document.images.length;
    return found;
  """
  )
  assert found.pop('said') == [VISIBLE] * 5  # Of one chooser and four.
  assert found.pop('selected') == [VISIBLE]
  assert found.pop('both') == ['Aare', 'Aare', VISIBLE]
  assert found.pop('answers') == [2, 4]
  assert found.pop('addresses') == [
    f'#group={group}&at=rollouts' for group in (3, 1)
  ]
  assert found.pop('means') == glossary.SPANS['everybody']
  how = found.pop('how')
  assert how == 'reward 0everybodyended: stop5 tokensadvantage -0.5'
  clipped = f'{NASTY[:60]} …'
  assert found == {
    'titles': ['Paragraph 1', 'Paragraph 2'],
    'facts': [
      '4 of 6 spans usable', 'spans earn 0.25',  # (0.75 + 0.75) / 6.
      'predictions earn 0.417',  # (1 + 0 + 4) / 12.
    ],
    'count': '24 of 24 answers, in 5 of 5 groups, 2 of 2 paragraphs',
    'step': 'step 1 · mean reward 0.417',  # That of predictions.
    'text': TEXT.replace(NASTY, VISIBLE),
    'marks': [
      ['1', 'Aare', 'some'], ['1', 'Aare', 'some'],
      ['2', VISIBLE, 'everybody'], ['3', 'town', 'nobody'],
    ],
    'chosen': [
      'Aarereward 0.75someadvantage +1.5chosen 2 timeshidden in 2 places',
      f'{VISIBLE}reward 0everybodyadvantage -0.5',
      'townreward 0nobodyadvantage -0.5',
      'inreward 0frequentadvantage -0.5chosen 2 times',
    ],
    'predicted': [
      f'1 of 4 rightaccuracy 0.25✓ Aare✗ {clipped} ×2✗ \\u202e',
      f'4 of 4 rightaccuracy 1not learned from✓ {clipped} ×4',
      '0 of 4 rightaccuracy 0not learned from✗ Rhine ×3✗ format/missing',
      'not predicted: it occurs too often in the paragraph',
    ],
    'empty': [
      'no spanreward 0format/openadvantage 0chosen 6 times'
      'not predicted: the mark of the span was opened and never closed',
    ],
    'chips': ['format/missing'],
    'before': 0,
    'meant': glossary.SPANS['frequent'],
    'ran': None,
    'images': 0,
  }  # fmt: skip


def test_filters_find_paragraphs(show):
  browser = show(
    [run()], address='#group=2&at=rollouts', size=(390, 400)
  )  # fmt: skip
  found = browser.evaluate(
    CARDS
    + """
    const opened = () => [...document.querySelectorAll('details.span[open]')]
      .map((e) => e.id);
    const {top} = byId('group-2').getBoundingClientRect();
    const found = {first: opened(), isInSight: 0 <= top && top < 400,
      marked: texts(cards[0], 'mark.chosen'),
      sorted: byParagraph([...groups].reverse().map((group) => [group, []]))
        .map(([{number}]) => number)};
    choose({find: 'Rhine'});
    found.find = opened();
    found.count = byId('rollout-count').value;
    found.dimmed = document.querySelectorAll('details.span.other').length;
    choose({find: 'Choose:'});
    found.prompt = opened();
    choose({find: '', reason: 'format/open'});
    found.reason = texts(document, '.group h3');
    choose({reason: '', kind: 'choose_span', order: 'low'});
    found.low = texts(document, '.group h3');
    found.words = Object.fromEntries([...document.querySelectorAll(
      '#words dl div')].map((e) => texts(e, 'dt, dd')));
    // A paragraph is ordered by its spans, if they pass the filters.
    found.ordered = [4, 3].map((count) =>
      paragraph(0, groups.slice(0, count)).answers.length);
    return found;
  """
  )
  words = found.pop('words')
  assert words['nobody'] == glossary.SPANS['nobody']
  assert words['right'] == glossary.REASONS['right']
  assert found == {
    'first': ['group-2'],
    'isInSight': True,
    'marked': ['town'],
    'sorted': [0, 1],
    'find': ['group-2'],
    'count': '3 of 24 answers, in 1 of 5 groups, 1 of 2 paragraphs',
    'dimmed': 3,
    # Prompts of choosing, of which each row shows one.
    'prompt': ['group-1', 'group-3', 'group-2', 'group-4.2', 'group-5.0'],
    'reason': ['Paragraph 2'],
    'low': ['Paragraph 2', 'Paragraph 1'],
    'ordered': [6, 12],
  }


def test_spans_by_chance_and_a_long_paragraph(show):
  long = 'The meadows are wide. ' * 200

  def chance():
    text = f'{long}Aare flows.{long}'
    yield by_chance(0, ['Aare'], [long, f' flows.{long}'], text)
    yield by_chance(0, ['Aare flows'], [long, f'.{long}'], text, reward=1.0)

  browser = show([run(chance)], size=(390, 800))
  found = browser.evaluate(
    CARDS
    + """
    const {textContent, scrollWidth} = document.documentElement;
    return {text: cards[0].querySelector('.paragraph').textContent,
      marks: [...cards[0].querySelectorAll('.paragraph mark')].map((e) =>
        [e.dataset.numbers, e.textContent, e.className]),
      folded: cards[0].querySelectorAll('.paragraph details').length,
      chosen: texts(cards[0], 'summary .cell:first-child'),
      titles: texts(cards[0], '.titles h4'), scrollWidth,
      note: byId('rollout-note').textContent.includes('by chance')};
  """
  )
  text = found.pop('text')
  assert text.startswith(long[:200]) and 'more characters' in text
  assert found == {
    'marks': [['1 2', 'Aare', 'nobody'], [None, ' flows', 'everybody']],
    'folded': 2,
    'chosen': ['Aare', 'Aare flows'],
    'titles': ['Spans that were chosen by chance', 'Predictions of each'],
    'scrollWidth': 390,
    'note': True,
  }


def test_curves_of_a_game_and_none_without(show):
  browser = show(
    [run(), run(name='b')], ready='panels.length', address='#smooth=0'
  )
  script = """
    const figures = [...document.querySelectorAll('#game-panels figure')];
    point(1);
    return figures.map((e) => [e.querySelector('h3').textContent,
      e.querySelector('.readout').textContent]);
  """
  found = browser.evaluate(script)
  assert found == [
    ['Usable spans: a', 'step 1usable 0.75cut 0odd 0.25'],
    ['Usable spans: b', 'step 1usable 0.75cut 0odd 0.25'],
    ['Difficulty: a', 'step 1none right 0.25all 0.75'],
    ['Difficulty: b', 'step 1none right 0.25all 0.75'],
    ['Reward of spans', 'step 1a0.5b0.5'],
    ['Span length', 'step 1a2b2'],
  ]
  plain = {k: v for k, v in columns().items() if not k.startswith('game/')}
  del plain['chooser/reward/mean']
  source = ''.join(
    report_page.report_page([run(None, columns=plain)], 'Report')
  )
  assert 'id="game-panels"' not in source and '>The game<' not in source
