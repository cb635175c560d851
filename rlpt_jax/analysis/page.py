"""Static pages: one file each, nothing to fetch, opens offline.

Everything that comes from data goes through `shown`, or is packed: base64 has
no character that a page knows. Should one way out of it remain, the page's own
policy lets no script run but the one it was made with.
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

# What a file begins with that may be replaced by another page.
BEGINNING = (
  '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
  '<meta name="generator" content="rlpt">\n'
)


def page(title: str, body: str, *, style: str = '', script: str = '') -> str:
  """A whole page around `body`, `style` and `script`, which are trusted."""
  return ''.join(parts(title, [body], style=style, script=script))


def parts(
  title: str, body: Iterable[str], *, style: str = '', script: str = ''
) -> Iterator[str]:
  """The same piece by piece, for a page that is large."""
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
  """The text of files beside this one: styles and scripts of pages."""
  folder = pathlib.Path(__file__).parent
  return ''.join((folder / name).read_text('utf-8') for name in names)


def escaped(text: str) -> str:
  """HTML, for an attribute too, in which a text is as it is."""
  return html.escape(''.join(part for part, _ in views.spelled(text)))


def shown(text: str, classes: str = '') -> str:
  """An element with a text of whatever language, unseen characters marked."""
  spelled = (
    f'<span class="unseen">{part}</span>' if unseen else html.escape(part)
    for part, unseen in views.spelled(text)
  )
  attribute = f' class="{classes}"' if classes else ''
  return f'<bdi{attribute}>{"".join(spelled)}</bdi>'


def packed(name: str, data: Any) -> str:
  """An element with that id, from which a script unpacks what JSON can say."""
  # Escapes for all that is not ASCII: half a surrogate pair has no UTF-8.
  text = json.dumps(data, allow_nan=False, separators=(',', ':'))
  squeezed = gzip.compress(text.encode('ascii'), compresslevel=6, mtime=0)
  return (
    f'<script type="text/plain" id="{name}">'
    f'{base64.b64encode(squeezed).decode()}</script>\n'
  )
