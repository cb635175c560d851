"""The report in a browser: curves and rollouts, and nothing gets out."""

import dataclasses
import functools
import itertools
import random
import urllib.parse

import numpy as np
import pytest

from rlpt_jax.analysis import glossary, page, report_page, views
from rlpt_jax.analysis.report_page import Run

START, END = '<|startofprediction|>', '<|endofprediction|>'
NASTY = (
  '</bdi></script><script>window.ran = 1</script><img src=x '
  'onerror="window.ran = 2">\' " & &amp; \u2028 \u202e nul\x00 \x1b[1m '
  '\ud800 😀'
)
VISIBLE = (
  '</bdi></script><script>window.ran = 1</script><img src=x '
  'onerror="window.ran = 2">\' " & &amp; \\u2028 \\u202e nul\\x00 \\x1b[1m '
  '\\ud800 😀'
)


def answer(example, sample, predicted, reward, reason, **fields):
  head = f'😀 so it is {START}'
  return {
    'example': example,
    'sample': sample,
    'completion': f'{head}{predicted}{END}',
    'answer': (len(head), len(head) + len(predicted)),
    'reward': reward,
    'reason': reason,
    'finish_reason': 'stop',
    'tokens': 9,
    'references': ['Lobsters are blue.', ' They turn red.', ' Then we eat.'],
    **fields,
  }


def rollouts(step):
  """Two groups of four answers."""
  for kind in ('asr', 'msr'):
    example = f'wiki/a.txt@{step}/{kind}'
    shared = {'kind': kind, 'prompt': f'What follows? ({kind}, {step})'}
    truth = {'truth': {'reward': 0.0, 'reason': 'wrong'}}
    yield answer(
      example, 0, 'Lobsters are blue.', 1.0, 'right', advantage=1.5,
      components=truth, **shared,
    )  # fmt: skip
    yield answer(
      example, 1, 'Lobsters are blue. They turn red.', 1.0, 'right', **shared
    )
    yield answer(example, 2, 'We eat.', 0.0, 'wrong', advantage=-0.5, **shared)
    cut = answer(example, 3, '', None, 'judge/failed', **shared)
    yield cut | {'finish_reason': 'length', 'answer': None}


def run(name, steps=30, level=1.0, lines=rollouts, **settings) -> Run:
  along = np.arange(steps)
  held_out = np.where(along % 10 == 9, level, np.nan)
  return Run(
    name=name,
    columns={
      'step': along.astype(float),
      'reward/mean': level * along / steps,
      'held_out/reward': held_out,
      'compute/total_flops': (along + 1) * 1e12,
      'timing/step_s': np.ones(steps),
      'timing/update_s': np.full(steps, 0.75),
      'timing/idle_s': np.full(steps, 0.25),
    },
    settings={'seed': 0, 'learning_rate': level, **settings},
    rollouts=[
      (step, functools.partial(lambda step: [*lines(step)], step))
      for step in (0, 10, 20)
    ],
  )


def test_groups_say_once_what_they_share():
  first, second = report_page.groups([*rollouts(3)])
  assert (first['kind'], second['kind']) == ('asr', 'msr')
  assert first['prompt'] == 'What follows? (asr, 3)'
  assert [x['reward'] for x in first['answers']] == [1, 1, 0, None]
  # An emoji is two units of a script's text.
  assert first['answers'][0]['answer'] == [33, 51]
  assert first['answers'][3]['answer'] is None


def test_lines_without_the_newer_fields_are_shown():
  lines = [
    {k: v for k, v in line.items() if k not in ('kind', 'prompt', 'advantage')}
    for line in rollouts(3)
  ]
  first, _ = report_page.groups(lines)
  assert first['kind'] == 'asr' and first['prompt'] is None  # From the id.


def test_an_example_that_comes_again_is_another_group():
  twice = [*rollouts(3)][:4] * 2
  assert [len(g['answers']) for g in report_page.groups(twice)] == [4, 4]


def test_settings_that_differ():
  source = ''.join(
    report_page.report_page([run('a', level=0.5), run('b', extra=7)], 'x')
  )
  differ, _, rest = source.partition('<details><summary>Only some runs have: 1')
  assert 'learning_rate' in differ and '<bdi>0.5</bdi>' in differ
  some, _, same = rest.partition('<details><summary>The same for all: 1')
  assert 'extra' in some and 'seed' in same


@pytest.mark.parametrize(
  'value, name',
  [
    ('rlpt_jax.training.optimizer.AdamW', 'optimizer.AdamW'),
    ('rlpt_jax.rewards.judge.judged.<locals>.reward', 'judge.judged'),
    ('my.rewards.made.<locals>.again.<locals>.<lambda>', 'my.rewards.made'),
    ('rlpt_jax.models', 'rlpt_jax.models'),
    ('0.5', '0.5'),
    ('out of f.<locals>.g', 'out of f.<locals>.g'),
  ],
)
def test_a_name_in_short_keeps_the_whole_one_in_reach(value, name):
  source = ''.join(report_page.report_page([run('a', f=value)], 'x'))
  shown = page.shown(name)
  title = f' title="{page.escaped(value)}"' if name != value else ''
  assert f'<td{title}>{shown}</td>' in source


def test_nothing_is_fetched():
  source = ''.join(report_page.report_page([run('a')], 'x'))
  assert "default-src 'none'" in source
  assert ' src=' not in source and '@import' not in source
  assert 'http' not in source.replace('http://www.w3.org/2000/svg', '').replace(
    'http-equiv', ''
  )


def test_curves_of_all_runs(show):
  browser = show([run('a'), run('b', level=0.5, steps=20)])
  found = browser.evaluate("""
    const figure = document.querySelector('.panel');
    const readout = () => figure.querySelector('.readout').textContent;
    const found = {
      titles: [...document.querySelectorAll('#main-panels h3')].map(
        (e) => e.textContent),
      lines: figure.querySelectorAll('.line').length, last: readout()};
    point(10);
    found.at = readout();
    point(25);
    found.beyond = readout();
    document.querySelector('#curve-tools [name=run][value="1"]').click();
    found.without = readout();
    found.address = location.hash;
    document.querySelector('#curve-tools [value=compute]').click();
    point(15e12);
    found.compute = readout();
    return found;
  """)
  assert found == {
    'titles': [
      'Reward', 'Held-out reward', 'Time of a step: a', 'Time of a step: b',
    ],
    'lines': 2,
    'last': 'lasta0.967b0.475',  # 29 / 30, and half of 19 / 20.
    'at': 'step 10a0.3b0.225',  # 9 / 30, and half of 9 / 20.
    'beyond': 'step 25a0.8b–',
    'without': 'step 25a0.8',
    'address': '#off=1',
    'compute': '15T FLOPsa0.467',
  }  # fmt: skip


def test_verdicts_are_one_picture_of_shares(show):
  along = np.arange(30)
  shares = {
    'reason/right': along / 40,
    'reason/format/open': np.where(along < 10, 0.25, np.nan),
    'reason/wrong': 1 - along / 40 - np.where(along < 10, 0.25, 0),
    'reward/truth/mean': along / 30,
    'reason/truth/right': np.ones(30),
  }
  with_some = run('a')
  with_some = dataclasses.replace(with_some, columns=with_some.columns | shares)
  browser = show([run('b'), with_some], address='#smooth=0')
  found = browser.evaluate("""
    const figures = [...document.querySelectorAll('#more-panels figure')];
    const titles = figures.map((e) => e.querySelector('h3').textContent);
    const figure = figures[titles.indexOf('Verdicts: a')];
    point(4);
    const parts = [...figure.querySelectorAll('.part')];
    const top = Math.min(...parts.map((e) => e.getBBox().y));
    return {titles, readout: figure.querySelector('.readout').textContent,
      one: Math.abs(top - panels.find((x) => x.figure === figure).scale.y(1)),
      meant: figure.querySelector('.readout bdi').title};
  """)
  assert found.pop('one') < 0.2  # Of 190: they sum to 1 at every step.
  assert found == {
    'titles': [
      'Verdicts: a', 'Verdicts, truth: a', 'Part of the reward: truth',
    ],
    'readout': 'step 4right 0.075wrong 0.675format/open 0.25',
    'meant': glossary.REASONS['right'],
  }  # fmt: skip


@pytest.mark.parametrize(
  'key, values, labels',
  [
    # Always the same, and within a decade, over one, over many.
    ('no_verdict_share', [0.0, 0.0], ['0', '0.2', '0.4', '0.6', '0.8', '1']),
    ('sampler/gap_mean', [4.6e-7, 5.4e-7], ['4.6e-7', '4.8e-7', '5e-7']),
    ('sampler/gap_mean', [3e-7, 6e-7], ['3e-7', '4e-7', '5e-7', '6e-7']),
    ('sampler/gap_mean', [1e-7, 2e-6], ['1e-7', '3e-7', '1e-6']),
    ('sampler/gap_mean', [1e-7, 1e-2], ['1e-6', '1e-4', '0.01']),
  ],
)
def test_axes_have_numbers_that_differ(show, key, values, labels):
  columns = {'step': np.arange(2.0), key: np.array(values)}
  browser = show([Run('a', columns, {})], ready='panels.length')
  found = browser.evaluate("""
    return [...document.querySelectorAll('.panel text')].map(
      (e) => e.textContent)""")
  assert found[0] == 'step'
  assert found[1 : len(labels) + 1] == labels


def test_the_keyboard_moves_along_a_curve(show):
  browser = show([run('a')])
  browser.evaluate("document.querySelector('.panel svg').focus()")
  browser.press('ArrowLeft')
  browser.press('ArrowLeft')
  browser.press('ArrowRight')
  text = "return document.querySelector('.panel .readout').textContent"
  # The right end, counted as the terminal does: 30 of 30.
  assert browser.evaluate(text) == 'step 30a0.967'


def test_the_pointer_reads_all_panels(show):
  browser = show([run('a')])
  x, y = browser.evaluate("""
    const svg = document.querySelector('.panel svg');
    svg.scrollIntoView({block: 'center'});
    const box = svg.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  """)
  browser.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)
  texts = """return [...document.querySelectorAll('.readout')].map(
    (e) => e.querySelector('.at').textContent)"""
  said = {*browser.evaluate(texts)}
  # The same in all: half of 400 units, of which 346 from 46 on are 29 steps,
  # is 13.9 from the left end, and steps are whole.
  assert said == {'step 14'}


VIEW = """
  const view = () => ({
    step: document.querySelector('.steps output').value,
    count: byId('rollout-count').value,
    groups: [...document.querySelectorAll('.group')].map((e) => e.id),
    other: document.querySelectorAll('.answer.other').length});
"""


def test_rollouts_are_filtered(show):
  browser = show([run('a'), run('b')])
  found = browser.evaluate(
    VIEW
    + """
    const found = {}, tools = byId('rollout-tools');
    const select = (name, value) => {
      tools.elements[name].value = value;
      tools.elements[name].dispatchEvent(new Event('change'));
    };
    found.all = view();
    for (const [name, value] of [['kind', 'msr'], ['reward', 'above'],
        ['reward', 'none'], ['reward', 'apart'], ['finish', 'stop'],
        ['reason', 'wrong']]) {
      select(name, value);
      found[value] = view();
      select(name, '');
    }
    tools.elements.find.value = 'wE EAT.';
    tools.elements.find.dispatchEvent(new Event('input'));
    await new Promise((f) => setTimeout(f, 300));
    found.find = view();
    found.address = location.hash;
    return found;
  """
  )
  both = ['group-1', 'group-2']

  def expected(count, groups=both, other=0):
    return {
      'step': 'step 20 · mean reward 0.667',
      'count': f'{count} of 8 answers, in {len(groups)} of 2 groups',
      'groups': groups,
      'other': other,
    }

  assert found == {
    'all': expected(8),
    'msr': expected(4, ['group-2']),
    'above': expected(4, other=4),
    'none': expected(2, other=6),
    'apart': expected(2, other=6),
    'stop': expected(6, other=2),
    'wrong': expected(2, other=6),
    'find': expected(8),  # It is in the references, too.
    'address': '#find=wE+EAT.&at=rollouts',
  }


def test_groups_are_shown_a_few_at_a_time(show):
  def lines(step):
    for i in range(12):
      yield answer(f'{i}', 0, 'x', 1.0, 'right')

  browser = show([run('a', lines=lines)])
  found = browser.evaluate("""
    const found = [];
    for (;;) {
      found.push([document.querySelectorAll('.group').length,
        byId('more-groups')?.textContent ?? '', document.activeElement.text]);
      if (!byId('more-groups')) return found;
      byId('more-groups').querySelector('button').click();
    }
  """)
  assert found == [
    [5, '5 more groupsof 7', ''],
    [10, '2 more groups', 'Group 6'],
    [12, '', 'Group 11'],
  ]


def test_a_view_is_shared_by_its_address(show):
  address = '#run=1&step=11&kind=msr&reward=zero&group=2&at=rollouts&x=time'
  browser = show([run('a'), run('b')], address=address)
  assert browser.evaluate(VIEW + 'return view()') == {
    'step': 'step 10 · mean reward 0.667',  # The nearest that is kept.
    'count': '1 of 8 answers, in 1 of 2 groups',
    'groups': ['group-2'],
    'other': 3,
  }
  found = browser.evaluate("""
    return [document.querySelector('[name=x]:checked').value,
      byId('rollout-tools').elements.reward.value, scrollY > 500,
      !!document.querySelector('.group.chosen')]
  """)
  assert found == ['time', 'zero', True, True]
  # Another step, by the keyboard; the filters stay.
  browser.evaluate("byId('rollout-tools').elements.steps.focus()")
  browser.press('ArrowRight')
  browser.wait("loaded === 'rollouts-1-20'")
  found = browser.evaluate("""
    return [document.activeElement.name, document.activeElement.value,
      new URLSearchParams(location.hash.slice(1)).get('step'),
      byId('rollout-tools').elements.kind.value]
  """)
  assert found == ['steps', '2', '20', 'msr']
  # A link to a part of the page leaves the view as it is.
  browser.evaluate("document.querySelector('nav a').click()")
  browser.wait("location.hash.includes('at=curves')")
  assert 'step=20&kind=msr' in browser.evaluate('return location.hash')


def test_answers_and_their_references(show):
  browser = show([dataclasses.replace(run('a'), judge='judge')])
  found = browser.evaluate("""
    const card = document.querySelector('.group');
    const texts = (what) => [...card.querySelectorAll(what)].map(
      (e) => e.textContent);
    return {
      prompt: texts('.prompt .text'), asked: texts('.asked'),
      facts: texts('.facts').slice(0, 1),
      judged: texts('mark.answer'), closest: texts('.closest'),
      labels: texts('.answer h4'),
      looks: [...card.querySelectorAll('div.answer')].flatMap((e) =>
        ['above', 'zero', 'none'].filter((c) => e.classList.contains(c))),
    };
  """)
  blue, red, eat = 'Lobsters are blue.', ' They turn red.', ' Then we eat.'
  assert found == {
    'prompt': ['What follows? (asr, 20)'],
    'asked': [blue],
    'facts': [
      'reward 1judge: righttruth: wrongended: stop9 tokensadvantage +1.5'
    ],
    'judged': [blue, blue + red, 'We eat.'],
    # Of 'We eat.' all three together have the most words. The first segment
    # stands above.
    'closest': [blue + red, blue + red + eat],
    'labels': [f'closest in words: segments 1 to {n}' for n in (2, 3)],
    'looks': ['above', 'above', 'zero', 'none'],
  }


def test_short_words_say_what_they_mean(show):
  def lines(step):
    for kind in ('asr', '__proto__', NASTY):
      yield answer(
        kind, 0, 'x', 0.0, 'format/open', kind=kind, advantage=-1.0,
        components={'truth': {'reward': 1.0, 'reason': 'truth/right'}},
      )  # fmt: skip

  browser = show([run('a', lines=lines)])
  found = browser.evaluate("""
    const words = (what) => Object.fromEntries([...document.querySelectorAll(
      what)].map((e) => [e.textContent, e.title || null]));
    return {kinds: Object.keys(words('.group > header bdi:first-of-type')),
      facts: words('.group:first-child .facts bdi'),
      legend: [...document.querySelectorAll('#words dt')].map(
        (e) => e.textContent)};
  """)
  assert found == {
    'kinds': ['asr (the next segment)', '__proto__', VISIBLE],
    'facts': {
      'format/open': glossary.REASONS['format/open'],
      'truth': glossary.PART,
      'truth/right': glossary.REASONS['right'],
      'ended: stop': glossary.ENDINGS['stop'],
      'advantage -1': glossary.ADVANTAGE,
    },
    'legend': [
      'asr', 'asr', 'ended: stop', 'format/open', 'truth/right', 'truth',
      'advantage',
    ],
  }  # fmt: skip


def test_a_prompt_in_short_is_not_what_all_end_with(show):
  def lines(step):
    for i, text in enumerate(['It rained.', 'It was dry. So it burned.']):
      prompt = f'## Text ##: {text}\n\n<MASK>\n\n{i} left.\n\n## Fill it.'
      yield answer(f'a/{i}', 0, 'x', 1.0, 'right', kind='msr', prompt=prompt)
    yield answer('b', 0, 'x', 1.0, 'right', kind='__proto__', prompt='Why?')

  browser = show([run('a', lines=lines)])
  found = browser.evaluate("""
    return [...document.querySelectorAll('.prompt summary')].map(
      (e) => e.textContent)""")
  assert found == [
    'prompt: … ## Text ##: It rained. <MASK> 0',
    'prompt: … ## Text ##: It was dry. So it burned. <MASK> 1',
    'prompt: … Why?',
  ]


def test_advantage_by_token_on_request(show):
  def lines(step):
    yield answer(
      'a', 0, 'x', 1.0, 'right', advantage=1.5,
      token_texts=['It ', 'is ', NASTY],
      logprobs=[0.0, -3.0, -0.1], entropies=[0.5, 0.5, 0.5],
    )  # fmt: skip
    yield answer('a', 1, 'x', 0.0, 'wrong', advantage=-0.5)
    yield answer('a', 2, 'x', 0.0, 'wrong')

  browser = show([run('a', lines=lines)], address='#tokens=on')
  found = browser.evaluate("""
    return [...document.querySelectorAll('div.answer')].map((card) => ({
      note: card.querySelector('.note').textContent,
      tokens: [...card.querySelectorAll('.token')].map((e) => [e.textContent,
        e.style.background, e.title])}));
  """)
  more, less, unknown = found
  assert [text for text, _, _ in more['tokens']] == ['It ', 'is ', VISIBLE]
  assert more['tokens'][1][1:] == [
    'rgba(var(--good), 0.45)', 'probability 0.0498, entropy 0.5',
  ]  # fmt: skip
  assert 'more probable: advantage +1.5' in more['note']
  assert less['tokens'][0][1] == 'rgba(var(--bad), 0.15)'
  assert 'tokens were not kept one by one' in less['note']
  assert 'no advantage for this answer' in unknown['note']


def test_a_token_that_is_pointed_at_is_read(show):
  def lines(step):
    texts = ['so ', '', '😀', 'Lobsters ', 'are blue.', ' ', NASTY]
    yield answer(
      'a', 0, 'x', 1.0, 'right', advantage=1.5, completion=''.join(texts),
      answer=(4, 22), token_texts=texts, logprobs=[-1.0] * 7,
    )  # fmt: skip

  browser = show([run('a', lines=lines)], address='#tokens=on')
  found = browser.evaluate("""
    const tokens = [...document.querySelectorAll('.token')];
    const read = (token) => {
      token.dispatchEvent(new Event('pointerover', {bubbles: true}));
      return document.querySelector('output.note').textContent;
    };
    return {judged: tokens.flatMap((e) => e.classList.contains('judged') ?
        [e.textContent] : []), read: tokens.map(read),
      width: tokens[1].getBoundingClientRect().width > 3,
      note: byId('rollout-note').textContent};
  """)
  rest = 'probability 0.368'
  assert found['judged'] == ['Lobsters ', 'are blue.']
  assert found['read'][0] == f'so : {rest}'
  assert found['read'][1] == f': {rest}, a part of the character that follows'
  assert found['read'][-1] == f'{VISIBLE}: {rest}'
  assert found['width']
  assert 'Bold: what was judged' in found['note']


def test_the_judges_answer_is_there_where_it_gave_no_verdict():
  line = answer('a', 0, 'Blue.', None, 'judge/both', judge_answer='0 or 1')
  line['components'] = {
    'kind': {'reward': 1.0, 'reason': 'right', 'judge_answer': 'Score: 1'},
    'strict': {
      'reward': None,
      'reason': 'judge/unparsable',
      'judge_answer': '',
    },
    'truth': {'reward': None, 'reason': 'gold/empty'},
  }
  assert report_page._answer(line)['unread'] == ['0 or 1', '']


def test_nothing_breaks_out(show):
  def lines(step):
    for sample in range(2):
      yield {
        'example': NASTY,
        'sample': sample,
        'completion': NASTY * 40,
        'answer': (len(NASTY), 2 * len(NASTY)),
        'reward': 1.0,
        'reason': NASTY,
        'components': {
          NASTY: {'reward': None, 'reason': NASTY, 'judge_answer': NASTY}
        },
        'finish_reason': NASTY,
        'references': [NASTY, NASTY],
        'prompt': NASTY,
        'kind': NASTY,
      }

  evil = run(NASTY, lines=lines, **{NASTY: NASTY})
  address = '#' + urllib.parse.urlencode(
    {'find': '<img', 'kind': '<img src=y>'}
  )
  browser = show([evil, run('b')], title=NASTY, address=address)
  browser.evaluate("""
    const {kind} = byId('rollout-tools').elements;
    kind.value = '';
    kind.dispatchEvent(new Event('change'));
    await new Promise((f) => setTimeout(f, 300));
  """)
  found = browser.evaluate("""
    const has = (selector) => document.querySelectorAll(selector).length;
    return {ran: window.ran ?? null, images: document.images.length,
      scripts: has('script:not([type])'), title: document.title,
      answers: has('div.answer'),
      unread: document.querySelector('.answer .note').textContent,
      texts: [...new Set([...document.querySelectorAll('h1 bdi, .run h3 bdi, '
        + '.group > header bdi:first-of-type, div mark.answer, '
        + '.references bdi, th bdi, .prompt .text, .facts bdi')].map(
        (e) => e.textContent))]};
  """)
  texts = {*found.pop('texts')}
  ended = f'ended: {VISIBLE}'
  assert {VISIBLE, ended, 'b', 'seed', 'learning_rate'} == texts
  assert found == {
    'ran': None,
    'images': 0,
    'scripts': 1,
    'title': VISIBLE,
    'answers': 2,
    'unread': f'the judge answered: {VISIBLE}',
  }


def test_the_script_spells_as_python_does(show):
  browser = show([run('a')])
  codes = [*range(0x3100), *range(0xD7F0, 0x10000), *range(0xE0000, 0xE0090)]
  found = browser.evaluate(f"""
    return {codes}.map((code) => shown(
      String.fromCodePoint(code)).innerHTML.includes('unseen') ?
      spelled(String.fromCodePoint(code)) : '');
  """)
  expected = [
    part if unseen else ''
    for code in codes
    for part, unseen in views.spelled(chr(code))
  ]
  assert found == expected


def test_runs_without_rollouts_say_so(show):
  plain = run('a', lines=lambda step: ())
  browser = show([plain])
  note = "return byId('rollout-note').textContent"
  assert 'No rollouts of this step were kept' in browser.evaluate(note)
  none = report_page.Run('b', plain.columns, {})
  browser = show([none], ready="byId('rollout-note').textContent")
  assert 'None of these runs kept rollouts' in browser.evaluate(note)


@pytest.mark.parametrize('width', [390, 1280])
def test_nothing_is_wider_than_the_window(show, width):
  many = [run(f'a run with a name of some length {i}') for i in range(8)]
  browser = show(many, size=(width, 900))
  script = 'return document.documentElement.scrollWidth'
  assert browser.evaluate(script) <= width


def test_names_of_settings_stay_beside_their_values(show):
  many = [run(f'run {i}', level=i) for i in range(8)]
  browser = show(many, size=(390, 900))
  scrolled, moved = browser.evaluate("""
    const wide = document.querySelector('.wide');
    const left = () => wide.querySelector('tbody th').getBoundingClientRect()
      .left;
    const before = left();
    wide.scrollLeft = 200;
    return [wide.scrollLeft, left() - before];
  """)
  assert scrolled == 200
  assert abs(moved) < 1  # A border is half of the cell beside it.


def test_a_hundred_thousand_rollouts(show, monkeypatch):
  """The page opens, and a click unpacks the step it asks for and no other."""

  def lines(step):
    numbers = random.Random(step)
    for group, sample in itertools.product(range(64), range(8)):
      words = ' '.join(f'{numbers.random():.4f}' for _ in range(100))
      yield answer(f'{group}', sample, words, 1.0, 'right')

  big = run('a', lines=lines)
  # Packed once: it is the browser that is tried.
  found = report_page.groups([*lines(0)])
  packed = page.packed('rollouts-0-0', found)
  monkeypatch.setattr(report_page, 'groups', lambda lines: found)
  monkeypatch.setattr(
    report_page,
    'packed',
    lambda name, data: (
      packed.replace('rollouts-0-0', name)
      if name.startswith('rollouts')
      else page.packed(name, data)
    ),
  )
  rollouts = [(step, lambda: []) for step in range(200)]
  browser = show([Run('a', big.columns, {}, rollouts)])
  count = browser.evaluate(
    'return data.runs[0].rollouts.reduce((n, entry) => n + entry.count, 0)'
  )
  assert count == 200 * 64 * 8 > 100_000
  unpacked = browser.evaluate("""
    let unpacked = 0;
    window.DecompressionStream = class extends DecompressionStream {
      constructor(format) { super(format); unpacked += 1; }
    };
    await choose({step: '100'});
    if (loaded !== 'rollouts-0-100') throw loaded;
    return unpacked;
  """)
  assert unpacked == 1
