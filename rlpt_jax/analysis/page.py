"""Static pages. Each is one file, which opens offline and fetches nothing.

All data goes through `shown` or `escaped`, or is packed as base64, which has no
character that HTML interprets. If a script in the data got through all the
same, the page's content security policy would not let it run.
"""

import base64
import gzip
import hashlib
import html
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from rlpt_jax.analysis import views

# Only a file that begins like this may be replaced by another page.
BEGINNING = (
  '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
  '<meta name="generator" content="rlpt">\n'
)


def page(title: str, body: str, *, style: str = '', script: str = '') -> str:
  """Returns a page of `body`, `style` and `script`, which are not escaped."""
  return ''.join(parts(title, [body], style=style, script=script))


def parts(
  title: str, body: Iterable[str], *, style: str = '', script: str = ''
) -> Iterator[str]:
  """Yields, piece by piece, the page that `page` returns whole."""
  assert '</script' not in script and '</style' not in style
  style = f'{asset("page.css")}{style}'
  allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
  )
  yield (
    f'{BEGINNING}<meta http-equiv="Content-Security-Policy" '
    f'content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n'
    '<body>\n<main>\n'
  )
  yield from body
  yield f'\n</main>\n<script>{script}</script>\n</body>\n</html>\n'


def asset(*names: str) -> str:
  """Returns the joined text of files in this folder: styles or scripts."""
  folder = pathlib.Path(__file__).parent
  return ''.join((folder / name).read_text('utf-8') for name in names)


def escaped(text: str) -> str:
  """Returns HTML that shows a text literally, also in an attribute."""
  return html.escape(''.join(part for part, _ in views.spelled(text)))


def shown(text: str, classes: str = '') -> str:
  """Returns an element that shows a text; marks characters that are unseen."""
  spelled = (
    f'<span class="unseen">{part}</span>' if unseen else html.escape(part)
    for part, unseen in views.spelled(text)
  )
  attribute = f' class="{classes}"' if classes else ''
  return f'<bdi{attribute}>{"".join(spelled)}</bdi>'


def packed(name: str, data: Any) -> str:
  """Returns an element with the id `name` that holds `data` as gzipped JSON.

  A script of the page unpacks it.
  """
  # Here json.dumps escapes all but ASCII, because the data may contain half a
  # surrogate pair, which UTF-8 cannot encode.
  text = json.dumps(data, allow_nan=False, separators=(',', ':'))
  squeezed = gzip.compress(text.encode('ascii'), compresslevel=6, mtime=0)
  return (
    f'<script type="text/plain" id="{name}">'
    f'{base64.b64encode(squeezed).decode()}</script>\n'
  )
