import dataclasses
import html.parser

from rlpt_jax.analysis import preview_page
from rlpt_jax.analysis.views import View
from tests.linear import ends_soon

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
  outline = Outline(preview_page.preview_page([ASR], 'Heading', {'seed': '0'}))
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
  assert '1,412 prompt tokens' in preview_page.preview_page([ASR], '', {})


def test_the_target_is_in_the_place_of_the_mask():
  outline = Outline(preview_page.preview_page([MSR], 'Heading', {}))
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
  source = preview_page.preview_page([SFT], 'Heading', {})
  legend = source[source.index('<ul') : source.index('</ul>')]
  assert 'trained on' in legend and 'target' not in legend


def test_nothing_breaks_out():
  source = preview_page.preview_page([EVIL], NASTY, {NASTY: NASTY})
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
  source = preview_page.preview_page([LONG], 'Heading', {})
  outline = Outline(source)
  texts = [text for role, text in outline.texts if role == 'context']
  assert ''.join(texts) == LONG.pieces[0][1]
  assert len(texts) == 2 and 1400 < len(texts[1]) <= 1500
  assert f'{len(texts[0]):,} more characters' in source


def test_nothing_is_fetched():
  source = preview_page.preview_page(VIEWS, 'Heading', {})
  for tag, attributes in Outline(source).tags:
    assert tag not in ('link', 'iframe', 'img')
    assert 'src' not in attributes
    assert attributes.get('href', '#').startswith('#')
  assert 'url(' not in source and '@import' not in source


def test_hundreds_of_long_examples_take_no_time():
  view = dataclasses.replace(ASR, pieces=(('context', 'word ' * 2000),))
  with ends_soon():
    source = preview_page.preview_page([view] * 500, 'Heading', {})
  assert len(source) > 5_000_000


# In a browser.


def probe(browser, source: str, script: str, tmp_path) -> dict:
  """What `script`, run after the page's own, leaves in `result`."""
  path = tmp_path / 'page.html'
  path.write_text(source, encoding='utf-8')
  browser.open(path)
  wait = 'const wait = () => new Promise((done) => setTimeout(done, 300));'
  found = browser.evaluate(
    f'const result = {{}}; {wait}\n{script}\nreturn result;'
  )
  assert browser.console == []
  return found


def test_browser_filters_and_searches(browser, tmp_path):
  source = preview_page.preview_page(VIEWS, 'Heading', {})
  result = probe(
    browser,
    source,
    """
    const visible = () => cards.flatMap((c, i) => c.hidden ? [] : [i]);
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


def test_browser_hides_targets_until_asked(browser, tmp_path):
  result = probe(
    browser,
    preview_page.preview_page([ASR, MSR], 'Heading', {}),
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


def test_browser_shows_text_and_runs_none(browser, tmp_path):
  result = probe(
    browser,
    preview_page.preview_page([EVIL], NASTY, {NASTY: NASTY}),
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


def test_browser_lays_out_every_blank(browser, tmp_path):
  result = probe(
    browser,
    preview_page.preview_page([ASR], 'Heading', {}),
    """
    cards[0].style.contentVisibility = 'visible';  // No frame is drawn here.
    result.context = document.querySelector('.text .context').innerText;
    """,
    tmp_path,
  )
  assert result == {'context': 'One  and\n two.'}


def test_browser_shows_both_colours(browser, tmp_path):
  path = tmp_path / 'page.html'
  path.write_text(preview_page.preview_page(VIEWS, 'Heading', {'seed': '0'}))
  for dark, expected in (
    (True, 'rgb(20, 23, 27)'),
    (False, 'rgb(244, 245, 247)'),
  ):
    browser.open(path, dark=dark)
    color = 'return getComputedStyle(document.body).backgroundColor'
    assert browser.evaluate(color) == expected
    assert browser.console == []
