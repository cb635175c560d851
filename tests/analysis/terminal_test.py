import dataclasses
import io

import pytest
import rich.cells
import rich.console

from rlpt_jax.analysis import terminal
from rlpt_jax.analysis.views import View

MSR = View(
  'msr',
  'wiki.txt@1200 · segment 5 of 31',
  (
    ('template', '## Text Material ##: '),
    ('context', 'One and two. ' * 4),
    ('template', '\n\n'),
    ('mask', '<MASK>'),
    ('template', '\n\n'),
    ('shown', 'Four.'),
  ),
  'Three.',
  ('Three.', 'Four.'),
  {'prompt tokens': 1412, 'target tokens': 23},
)


def printed(view, *, width=80, full=False, encoding='utf-8', **options):
  data = io.BytesIO()
  file = io.TextIOWrapper(data, encoding=encoding, newline='')
  console = rich.console.Console(
    file=file, width=width, highlight=False, **options
  )
  terminal.print_views([view], '1 example', console, full=full)
  file.flush()
  return data.getvalue().decode(encoding)


def test_msr_in_80_columns_without_colours():
  assert printed(MSR) == (
    '1 example\n'
    '\n'
    f'━━ 1/1 msr {"━" * 69}\n'
    'wiki.txt@1200 · segment 5 of 31'
    '           1,412 prompt tokens · 23 target tokens\n'
    '\n'
    ' template │ ## Text Material ##:\n'
    '  context │ One and two. One and two. One and two. One and two.\n'
    '     mask │ <MASK>\n'
    '   target ┃ Three.\n'
    '    shown │ Four.\n'
    '   ref. 2 │ Four.\n'
  )


def test_no_color_says_the_same(monkeypatch):
  monkeypatch.setenv('NO_COLOR', '1')
  shown = printed(MSR, force_terminal=True)
  assert '   target ┃' in shown
  assert '\x1b[3' not in shown  # No colour; bold and dim remain.


def test_each_text_has_the_style_of_its_role():
  shown = printed(MSR, force_terminal=True, color_system='standard')
  assert '\x1b[1;32m   target ┃ \x1b[0m\x1b[1;32mThree.\x1b[0m' in shown
  assert '\x1b[2m  context │ \x1b[0mOne and two.' in shown
  assert '\x1b[36mFour.\x1b[0m' in shown


@pytest.mark.parametrize('width', [30, 80, 140])
def test_no_line_is_wider_than_the_terminal(width):
  text = 'Wörter und 日本語の文章も同じです。' * 30 + 'x' * 500 + '\ttab' * 30
  view = dataclasses.replace(
    MSR,
    title='title ' * 10,
    place='place ' * 20,
    pieces=(('context', text), ('loss', text)),
  )
  for full in (False, True):
    for line in printed(view, width=width, full=full).splitlines():
      assert rich.cells.cell_len(line) <= width, line


def test_long_texts_are_shortened_unless_asked_for_in_full():
  context = ' '.join(f'word{i}' for i in range(1000))
  view = dataclasses.replace(MSR, pieces=(('context', context),))
  short = printed(view)
  assert 'word999' in short and 'word1 ' not in short
  assert ' characters left out …' in short
  full = printed(view, full=True)
  assert 'word999' in full and 'word1 ' in full
  assert 'left out' not in full


def test_nothing_in_a_text_is_interpreted():
  text = '[bold]b[/bold] [/] :smile: \x1b[31mred\x1b]0;t\x07 \x00\r\u202e\ud800'
  view = dataclasses.replace(
    MSR, title=text, place=text, pieces=(('context', text),), target=text
  )
  shown = printed(view, width=100)
  expected = (
    r'[bold]b[/bold] [/] :smile: \x1b[31mred\x1b]0;t\x07 \x00\r\u202e\ud800'
  )
  assert shown.count(expected) == 4
  assert not {'\x1b', '\x07', '\x00', '\r', '\u202e', '\ud800'} & set(shown)


def test_line_ends_and_indents_within_a_text_stay():
  view = dataclasses.replace(
    MSR, pieces=(('loss', '\n\ndef f():\n  return 1\n\n  # end\n'),), target=''
  )
  assert printed(view).split('\n\n', 2)[2] == (
    '     loss ┃ def f():\n'
    '          ┃   return 1\n'
    '          ┃\n'
    '          ┃   # end\n'
    '   ref. 1 │ Three.\n'
    '   ref. 2 │ Four.\n'
  )


def test_ascii_terminals_get_ascii():
  view = dataclasses.replace(MSR, target='Größe.')
  shown = printed(view, encoding='ascii')
  assert r'   target # Gr\xf6\xdfe.' in shown
