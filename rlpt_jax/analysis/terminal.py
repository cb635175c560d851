"""Prints examples to a terminal or a pipe; colour alone never says anything."""

from collections.abc import Sequence

import rich.console
import rich.text

from rlpt_jax.analysis import views
from rlpt_jax.analysis.views import View, spelled

# Role -> the style of its text. The margin names the role too.
_STYLES = {
  'template': 'dim',
  'context': '',
  'mask': 'bold magenta',
  'shown': 'cyan',
  'plain': '',
  'loss': 'green',
  'target': 'bold green',
  'reference': 'dim green',
}
_TRAINED_ON = {'target', 'loss'}
_LIMIT = 600  # Characters of a piece that are printed, unless `full`.
_MARGIN = 9  # Columns for the longest name.


def print_views(
  examples: Sequence[View],
  heading: str,
  console: rich.console.Console | None = None,
  *,
  full: bool = False,
):
  """Prints examples; shortens long texts unless `full`.

  Blank lines around a piece and spaces at the end of a line are left out;
  `preview_page` shows those too.
  """
  console = console or rich.console.Console(highlight=False)
  _write(console, _text(heading, 'bold'))
  for number, view in enumerate(examples, 1):
    _write(console, rich.text.Text())
    _print_heading(console, view, f'{number}/{len(examples)}')
    for role, text in views.with_target(view):
      _print_piece(console, role, role, text, full=full)
    for count, text in views.later_references(view):
      _print_piece(console, 'reference', f'ref. {count}', text, full=full)


def _print_heading(console, view: View, number: str):
  title = _text(f'━━ {number} {view.title} ', 'bold')
  title.truncate(console.width)
  title.append('━' * (console.width - title.cell_len), 'dim')
  _write(console, title)
  counts = ' · '.join(f'{n:,} {name}' for name, n in view.counts.items())
  place, counts = _text(view.place, 'dim'), _text(counts, 'bold')
  blanks = console.width - place.cell_len - counts.cell_len
  if blanks >= 2:
    _write(console, rich.text.Text.assemble(place, ' ' * blanks, counts))
  else:
    for part in (place, counts):
      for line in part.wrap(console, console.width):
        _write(console, line)
  _write(console, rich.text.Text())


def _print_piece(console, role: str, name: str, text: str, *, full: bool):
  """Prints a text beside a margin with its name and a bar along every line."""
  text = '\n'.join(line.rstrip() for line in text.split('\n')).strip('\n')
  if not text:  # It was only blank lines.
    return
  style, bar = _STYLES[role], '│'
  margin_style = 'dim'
  if role in _TRAINED_ON:
    margin_style, bar = style, '┃'
  before, hidden, after = views.fold(role, text, len(text) if full else _LIMIT)
  lines = _wrapped(console, before, style)
  if hidden:
    note = f'… {len(hidden):,} characters left out …'
    lines += _wrapped(console, note, 'dim italic')
    lines += _wrapped(console, after, style)
  for i, line in enumerate(lines):
    margin = f'{name if i == 0 else "":>{_MARGIN}} {bar} '
    _write(console, rich.text.Text.assemble((margin, margin_style), line))


def _wrapped(console, text: str, style: str) -> list[rich.text.Text]:
  if not text.strip('\n'):
    return []
  wrapped = _text(text.strip('\n'), style)
  width = max(console.width - _MARGIN - 3, 10)
  return list(wrapped.wrap(console, width, overflow='fold'))


def _text(text: str, style: str) -> rich.text.Text:
  """Returns a text that prints literally, whatever markup or codes it has."""
  # Style each part, because a base style would also apply to text that is
  # appended later.
  return rich.text.Text.assemble(
    *((part, 'red' if unseen else style) for part, unseen in spelled(text))
  )


def _write(console, line: rich.text.Text):
  """Prints one line, which must fit the width.

  If the console shows only ASCII, other characters are replaced.
  """
  line.rstrip()
  if console.options.ascii_only:
    plain = line.plain.translate(str.maketrans('━│┃·…', '-|#|.'))
    line = rich.text.Text(plain.encode('ascii', 'backslashreplace').decode())
  console.print(line, no_wrap=True, overflow='ignore', crop=False)
