import dataclasses
import html
import html.parser
import json
import os
import shutil
import subprocess
import time

import pytest

from rlpt_jax.analysis import page
from rlpt_jax.analysis.views import View

NASTY = (
  '</bdi></script><script>window.ran = 1</script><img src=x '
  'onerror="window.ran = 2">\' " & &amp; \u2028 \u202e nul\x00 \x1b[1m \ud800'
)
VISIBLE = (
  '</bdi></script><script>window.ran = 1</script><img src=x '
  'onerror="window.ran = 2">\' " & &amp; \\u2028 \\u202e nul\\x00 \\x1b[1m '
  '\\ud800'
)
ASR = View(
  'asr',
  'wiki.txt@0',
  (('template', '### Context\n\n'), ('context', 'One  and\n two.')),
  'Three.',
  ('Three.', 'Four.', 'Five.'),
  {'prompt tokens': 1412},
)
MSR = View(
  'msr',
  'wiki.txt@7',
  (
    ('context', 'Lobsters are blue.'),
    ('template', '\n\n'),
    ('mask', '<MASK>'),
    ('template', '\n\n'),
    ('shown', 'They turn red.'),
  ),
  'Then comes the cook.',
  ('Then comes the cook.',),
  {'prompt tokens': 30},
)
SFT = View(
  'sft', 'chat.jsonl:1', (('plain', 'Hi'), ('loss', 'Hello')), '', (), {}
)
EVIL = View(
  NASTY,
  NASTY,
  tuple((role, NASTY) for role in ('template', 'context', 'loss')),
  NASTY,
  (NASTY, NASTY),
  {NASTY: 1},
)
LONG = dataclasses.replace(
  ASR, title='long', pieces=(('context', 'hidden needle ' + 'word ' * 2000),)
)
VIEWS = [ASR, MSR, SFT, EVIL, LONG]


class Outline(html.parser.HTMLParser):
  """The elements of a page, and the text of each <bdi> with its class."""

  def __init__(self, source: str):
    super().__init__()
    self.tags, self.texts, self.open = [], [], []
    self.feed(source)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag == 'bdi':
      self.texts.append([dict(attributes).get('class'), ''])
      self.open.append(self.texts[-1])

  def handle_endtag(self, tag):
    if tag == 'bdi':
      self.open.pop()

  def handle_data(self, data):
    for text in self.open:
      text[1] += data


def test_pieces_have_their_roles_and_all_their_blanks():
  outline = Outline(page.preview_page([ASR], 'Heading', {'seed': '0'}))
  assert outline.texts == [
    [None, 'Heading'],
    [None, 'seed'],
    [None, '0'],
    [None, 'asr'],  # The filter.
    [None, 'asr'],
    ['place', 'wiki.txt@0'],
    ['template', '### Context\n\n'],
    ['context', 'One  and\n two.'],
    [None, 'Three.'],
    [None, 'Four.'],
    [None, 'Five.'],
  ]
  numbers = [a['value'] for tag, a in outline.tags if tag == 'li' and a]
  assert numbers == ['2', '3']
  assert '1,412 prompt tokens' in page.preview_page([ASR], '', {})


def test_the_target_is_in_the_place_of_the_mask():
  outline = Outline(page.preview_page([MSR], 'Heading', {}))
  # After the heading, the filter, the title and the place.
  assert outline.texts[4:] == [
    ['context', 'Lobsters are blue.'],
    ['template', '\n\n'],
    ['mask', '<MASK>'],
    ['template', '\n'],
    [None, 'Then comes the cook.'],
    ['template', '\n'],
    ['shown', 'They turn red.'],
  ]


def test_the_legend_has_what_there_is():
  source = page.preview_page([SFT], 'Heading', {})
  legend = source[source.index('<ul') : source.index('</ul>')]
  assert 'trained on' in legend and 'target' not in legend


def test_nothing_breaks_out():
  source = page.preview_page([EVIL], NASTY, {NASTY: NASTY})
  source.encode()  # No half of a pair is left.
  outline = Outline(source)
  assert [tag for tag, _ in outline.tags].count('script') == 1
  assert not any(tag == 'img' for tag, _ in outline.tags)
  # Heading, fact and its name, filter, title, place, 3 pieces, target and one
  # reference.
  assert [text for _, text in outline.texts] == [VISIBLE] * 11
  kinds = [a['data-kind'] for tag, a in outline.tags if tag == 'article']
  assert kinds == [VISIBLE]
  assert not {'\0', '\x1b', '\u202e', '\u2028'} & set(source)


def test_long_pieces_are_folded_and_whole():
  source = page.preview_page([LONG], 'Heading', {})
  outline = Outline(source)
  texts = [text for role, text in outline.texts if role == 'context']
  assert ''.join(texts) == LONG.pieces[0][1]
  assert len(texts) == 2 and 1400 < len(texts[1]) <= 1500
  assert f'{len(texts[0]):,} more characters' in source


def test_nothing_is_fetched():
  source = page.preview_page(VIEWS, 'Heading', {})
  for tag, attributes in Outline(source).tags:
    assert tag not in ('link', 'iframe', 'img')
    assert 'src' not in attributes
    assert attributes.get('href', '#').startswith('#')
  assert 'url(' not in source and '@import' not in source


def test_hundreds_of_long_examples_take_no_time():
  view = dataclasses.replace(ASR, pieces=(('context', 'word ' * 2000),))
  started = time.perf_counter()
  source = page.preview_page([view] * 500, 'Heading', {})
  assert len(source) > 5_000_000
  assert time.perf_counter() - started < 5  # Here 0.1.


# In a browser.


def chromium() -> str:
  names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
  found = next(filter(None, map(shutil.which, names)), None)
  if found is None:
    pytest.skip(f'no browser: none of {", ".join(names)} is in PATH')
  return found


def browse(source: str, tmp_path, *options) -> tuple[str, list[str]]:
  """(the page as it became, lines of its console)."""
  path = tmp_path / 'page.html'
  path.write_text(source, encoding='utf-8')
  done = subprocess.run(
    [
      chromium(), '--headless', '--disable-gpu', '--no-first-run',
      # Chromium's own sandbox refuses to run as root.
      *(['--no-sandbox'] if os.geteuid() == 0 else []),
      '--disable-background-networking', '--disable-component-update',
      '--disable-sync', '--disable-quic', '--enable-logging=stderr',
      f'--user-data-dir={tmp_path / "profile"}', *options, path.as_uri(),
    ],
    capture_output=True, text=True, encoding='utf-8', timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  console = [line for line in done.stderr.splitlines() if 'CONSOLE' in line]
  return done.stdout, console


def probe(source: str, script: str, tmp_path) -> dict:
  """What `script`, run after the page's own, leaves in `result`.

  Without the policy, so that the script may run, and would any other.
  """
  before, policy, after = source.partition('<meta http-equiv')
  assert policy
  source = before + after[after.index('>') + 1 :]
  script = (
    '<script>const result = {};'
    'const wait = () => new Promise((done) => setTimeout(done, 500));'
    'const visible = () => cards.flatMap((c, i) => c.hidden ? [] : [i]);'
    f'(async () => {{ {script}\n'
    "document.body.innerHTML = '';"
    'document.body.textContent = JSON.stringify(result); })();</script>'
  )
  source = source.replace('</body>', f'{script}</body>')
  dom, console = browse(
    source, tmp_path, '--dump-dom', '--virtual-time-budget=9000'
  )
  assert console == []
  body = dom[dom.index('<body>') + 6 : dom.index('</body>')]
  return json.loads(html.unescape(body))


def test_browser_filters_and_searches(tmp_path):
  source = page.preview_page(VIEWS, 'Heading', {})
  result = probe(
    source,
    """
    const {kind, search} = tools.elements;
    result.bar = tools.hidden;
    result.all = visible();
    result.count = tools.querySelector('output').value;
    kind[2].click();
    result.msr = visible();
    kind[4].click();
    result.evil = visible();
    kind[0].click();
    const find = async (words) => {
      search.value = words;
      search.dispatchEvent(new Event('input'));
      await wait();
      return visible();
    };
    result.lobsters = await find('LOBSTERS ');
    result.highlights = [...CSS.highlights.get('found')].map((r) =>
      r.startContainer.data.slice(r.startOffset, r.endOffset));
    result.pattern = await find('.*');
    result.angle = await find('<img src=x');
    result.folded = document.querySelector('.folded').open;
    result.needle = await find('needle');
    result.unfolded = document.querySelector('.folded').open;
    result.again = (await find('')).length;
    """,
    tmp_path,
  )
  assert result == {
    'bar': False,
    'all': [0, 1, 2, 3, 4],
    'count': '5 of 5 examples',
    'msr': [1],
    'evil': [3],
    'lobsters': [1],
    'highlights': ['Lobsters'],
    'pattern': [],  # It is text: no page has '.*'.
    'angle': [3],
    'folded': False,
    'needle': [4],
    'unfolded': True,
    'again': 5,
  }


def test_browser_hides_targets_until_asked(tmp_path):
  result = probe(
    page.preview_page([ASR, MSR], 'Heading', {}),
    """
    const answers = [...document.querySelectorAll('.answer')];
    const opened = () => answers.map((a) => a.open);
    const target = answers[0].querySelector('bdi');
    result.first = [opened(), target.checkVisibility()];
    tools.elements.hide.click();
    result.hidden = [opened(), target.checkVisibility()];
    const summary = answers[0].querySelector('summary');
    summary.focus();  // From where the keyboard opens it.
    result.focus = document.activeElement === summary;
    summary.click();
    result.asked = [opened(), target.checkVisibility()];
    """,
    tmp_path,
  )
  assert result == {
    'first': [[True, True, True], True],
    'hidden': [[False, False, False], False],
    'focus': True,
    'asked': [[True, False, False], True],
  }


def test_browser_shows_text_and_runs_none(tmp_path):
  result = probe(
    page.preview_page([EVIL], NASTY, {NASTY: NASTY}),
    """
    await wait();
    result.ran = window.ran ?? null;
    result.title = document.title;
    result.texts = [...new Set(
      [...document.querySelectorAll('bdi')].map((e) => e.textContent))];
    result.images = document.images.length;
    """,
    tmp_path,
  )
  assert result == {
    'ran': None,
    'title': VISIBLE,
    'texts': [VISIBLE],
    'images': 0,
  }


def test_browser_lays_out_every_blank(tmp_path):
  result = probe(
    page.preview_page([ASR], 'Heading', {}),
    """
    cards[0].style.contentVisibility = 'visible';  // No frame is drawn here.
    result.context = document.querySelector('.text .context').innerText;
    """,
    tmp_path,
  )
  assert result == {'context': 'One  and\n two.'}


def test_browser_refuses_scripts_that_are_not_the_pages(tmp_path):
  body = '<p>before</p><script>document.title = "ran"</script>'
  source = page.page('calm', body, script='document.body.id = "own";')
  dom, console = browse(source, tmp_path, '--dump-dom')
  assert '<title>calm</title>' in dom and 'id="own"' in dom
  assert len(console) == 1 and 'Content Security Policy' in console[0]


def test_browser_has_nothing_to_complain_of(tmp_path):
  """With the policy in force; and the picture has both colours of the page."""
  source = page.preview_page(VIEWS, 'Heading', {'seed': '0'})
  image = pytest.importorskip('matplotlib.image')
  for scheme, setting, expected in (('dark', 0, 0x14), ('light', 1, 0xF4)):
    shot = tmp_path / f'{scheme}.png'
    _, console = browse(
      source, tmp_path, f'--screenshot={shot}', '--window-size=1000,800',
      f'--blink-settings=preferredColorScheme={setting}',
    )  # fmt: skip
    assert console == []
    corner = image.imread(shot)[2, 2, 0] * 255
    assert round(float(corner)) == expected
