"""Static pages: one file each, nothing to fetch, opens offline.

Everything that comes from data goes through `shown`. Should one way out of it
remain, the page's own policy lets no script run but the one it was made with.
"""

import base64
import collections
import hashlib
import html
from collections.abc import Sequence

from rlpt_jax.analysis import views
from rlpt_jax.analysis.views import View

_LIMIT = 1500  # Characters of a piece in sight before one asks for more.

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --ink: #1c2128; --muted: #626b76;
  --line: #d8dde3; --link: #0b5cad; --unseen: #b3261e;
  --target: #fff0b8; --target-line: #d99e00;
  --loss: #fff6d9; --shown: #dcebfd; --mask: #f3dcfb; --found: #ffb366;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2126; --ink: #e3e7ec; --muted: #98a2ae;
    --line: #363d46; --link: #7db8f5; --unseen: #ff8f87;
    --target: #4a3a08; --target-line: #e0ad27;
    --loss: #37301a; --shown: #1c3552; --mask: #45265a; --found: #8a4a00;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.6 system-ui, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 6rem; }
h1 { margin: 0 0 .5rem; font-size: 1.5rem; line-height: 1.25; }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
/* Each text keeps its direction to itself, line by line. */
bdi { unicode-bidi: plaintext; overflow-wrap: anywhere; }
.unseen { color: var(--unseen); font: .85em ui-monospace, monospace; }
"""

_PREVIEW_STYLE = """
.facts { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; margin: 0 0 1rem; }
.facts dt { display: inline; color: var(--muted); }
.facts dd { display: inline; margin: 0 0 0 .4rem; }
.legend { margin: 0 0 1rem; padding: 0; list-style: none; font-size: .85rem;
  display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
.legend span { padding: .05rem .4rem; border-radius: 3px; }
.tools { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap;
  gap: .4rem 1rem; align-items: center; padding: .6rem 0; margin-bottom: .6rem;
  background: var(--page); border-bottom: 1px solid var(--line);
  font-size: .9rem; }
@media (max-width: 45rem) { .tools { position: static; } }
.tools[hidden] { display: none; }
.tools fieldset { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: 0;
  padding: 0; border: 0; }
.tools input[type=search] { flex: 1 1 10rem; min-width: 6rem; font: inherit;
  padding: .2rem .5rem; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 4px; }
small, .tools output { color: var(--muted); }
.counts, small, .tools output { font-variant-numeric: tabular-nums; }
article { margin: 0 0 1rem; padding: .9rem 1.1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; scroll-margin-top: 4rem;
  /* Hundreds of long examples: lay out those in sight. */
  content-visibility: auto; contain-intrinsic-size: auto 30rem; }
article[hidden] { display: none; }
article header { display: flex; flex-wrap: wrap; gap: 0 .9rem;
  align-items: baseline; margin-bottom: .6rem; padding-bottom: .4rem;
  border-bottom: 1px solid var(--line); font-size: .85rem; }
h2 { margin: 0; font-size: 1rem; }
h2 a { color: var(--muted); font-weight: normal; text-decoration: none; }
.place { color: var(--muted); }
.counts { margin: 0 0 0 auto; }
.text { white-space: pre-wrap; tab-size: 4; }
.template { color: var(--muted); }
.mask { background: var(--mask); font-family: ui-monospace, monospace; }
.shown { background: var(--shown); }
.loss { background: var(--loss); }
.target { background: var(--target); }
.text > bdi { border-radius: 3px; box-decoration-break: clone; }
details.folded { display: block; }
summary { cursor: pointer; color: var(--muted); font-size: .85rem; }
details.folded > summary { color: var(--link); }
details.target { margin: .4rem 0; padding: .2rem .8rem .3rem;
  border-left: 4px solid var(--target-line); border-radius: 3px; }
details.target > bdi { display: block; }
details.references { margin-top: .8rem; padding-top: .4rem;
  border-top: 1px solid var(--line); }
.references ol { margin: .2rem 0 0; padding-left: 1.8rem; color: var(--muted); }
.references li { white-space: pre-wrap; }
::highlight(found) { background: var(--found); }
@media print { .tools { display: none; } }
"""

# Highlights, where the browser has them, and opens what hides a finding: but no
# target that a reader has asked to hide.
_PREVIEW_SCRIPT = r"""
const tools = document.querySelector('.tools');
const cards = [...document.querySelectorAll('article')];
const textOf = (card) =>
  [...card.querySelectorAll('bdi')].map((e) => e.textContent).join('\n');
const texts = cards.map(textOf);

function update() {
  const words = tools.elements.search.value.trim();
  const escaped = words.replace(/[.*+?^${}()|[\]\\\/]/g, '\\$&');
  const has = new RegExp(escaped, 'iu');
  const kind = tools.elements.kind.value;
  const chosen = cards.filter((card, i) => {
    const of_kind = !kind || card.dataset.kind === kind;
    card.hidden = !(of_kind && has.test(texts[i]));
    return !card.hidden;
  });
  tools.querySelector('output').value =
    `${chosen.length} of ${cards.length} examples`;
  if (self.Highlight)
    CSS.highlights.set('found', new Highlight(
      ...(words ? findings(chosen, new RegExp(escaped, 'giu')) : [])));
}

function findings(chosen, pattern) {
  const ranges = [];
  for (const card of chosen) {
    const nodes = document.createTreeWalker(card, NodeFilter.SHOW_TEXT);
    while (nodes.nextNode() && ranges.length < 2000) {
      const node = nodes.currentNode;
      if (!node.parentElement.closest('bdi')) continue;
      for (const match of node.data.matchAll(pattern)) {
        const range = new StaticRange({
          startContainer: node, startOffset: match.index,
          endContainer: node, endOffset: match.index + match[0].length});
        ranges.push(range);
        const folded = node.parentElement.closest('.folded');
        if (folded) folded.open = true;
      }
    }
  }
  return ranges;
}

let waiting;
tools.elements.search.addEventListener('input', () => {
  clearTimeout(waiting);
  waiting = setTimeout(update, 150);
});
tools.addEventListener('change', (event) => {
  if (event.target.name === 'hide')
    for (const e of document.querySelectorAll('.answer'))
      e.open = !event.target.checked;
  update();
});
tools.addEventListener('submit', (event) => event.preventDefault());
tools.reset();
tools.hidden = false;
update();
"""


def page(title: str, body: str, *, style: str = '', script: str = '') -> str:
  """A whole page around `body`, `style` and `script`, which are trusted."""
  assert '</script' not in script and '</style' not in style
  style = f'{_STYLE}{style}'
  allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
  )
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n'
    f'<body>\n<main>\n{body}\n</main>\n<script>{script}</script>\n</body>\n'
    '</html>\n'
  )


def escaped(text: str) -> str:
  """HTML, for an attribute too, in which a text is as it is."""
  return html.escape(''.join(part for part, _ in views.spelled(text)))


def shown(text: str, classes: str = '') -> str:
  """An element with a text of whatever language, unseen characters marked."""
  parts = (
    f'<span class="unseen">{part}</span>' if unseen else html.escape(part)
    for part, unseen in views.spelled(text)
  )
  attribute = f' class="{classes}"' if classes else ''
  return f'<bdi{attribute}>{"".join(parts)}</bdi>'


def preview_page(
  examples: Sequence[View], heading: str, facts: dict[str, str]
) -> str:
  """A page that shows examples, to filter and to search."""
  items = ''.join(
    f'<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>\n'
    for name, value in facts.items()
  )
  body = [
    f'<h1>{shown(heading)}</h1>',
    f'<dl class="facts">\n{items}</dl>' if items else '',
    _legend(examples),
    _tools(examples),
    *(_card(number, view) for number, view in enumerate(examples, 1)),
  ]
  return page(
    heading, '\n'.join(body), style=_PREVIEW_STYLE, script=_PREVIEW_SCRIPT
  )


def _legend(examples: Sequence[View]) -> str:
  present = {role for view in examples for role, _ in views.with_target(view)}
  meanings = {**views.ROLES, 'target': 'target: what must be predicted'}
  items = ''.join(
    f'<li><span class="{role}">{meaning}</span></li>\n'
    for role, meaning in meanings.items()
    if role in present
  )
  return f'<ul class="legend" aria-label="colours">\n{items}</ul>'


def _tools(examples: Sequence[View]) -> str:
  kinds = collections.Counter(view.title for view in examples)
  choices = ''.join(
    f'<label><input type="radio" name="kind" value="{escaped(kind)}"> '
    f'{shown(kind)} <small>{count:,}</small></label>\n'
    for kind, count in kinds.items()
  )
  # Without its script it would do nothing, so the script brings it.
  return (
    '<form class="tools" hidden>\n<fieldset aria-label="kind">\n'
    '<label><input type="radio" name="kind" value="" checked> all</label>\n'
    f'{choices}</fieldset>\n'
    '<input type="search" name="search" placeholder="search"'
    ' aria-label="search">\n'
    '<label><input type="checkbox" name="hide"> hide targets</label>\n'
    '<output></output>\n</form>'
  )


def _card(number: int, view: View) -> str:
  counts = ' · '.join(
    f'{count:,} {escaped(name)}' for name, count in view.counts.items()
  )
  pieces = ''.join(
    _target(text) if role == 'target' else _folded(role, text)
    for role, text in views.with_target(view)
  )
  return (
    f'<article id="example-{number}" data-kind="{escaped(view.title)}">\n'
    f'<header><h2><a href="#example-{number}">{number}</a> '
    f'{shown(view.title)}</h2>{shown(view.place, "place")}'
    f'<p class="counts">{counts}</p></header>\n'
    f'<div class="text">{pieces}</div>\n{_references(view)}</article>'
  )


def _target(text: str) -> str:
  return (
    '<details class="target answer" open><summary>target</summary>'
    f'{shown(text)}</details>'
  )


def _folded(role: str, text: str) -> str:
  """A piece; of a long one, most waits until it is asked for."""
  before, hidden, after = views.fold(role, text, _LIMIT)
  if not hidden:
    return shown(text, role)
  note = f'… {len(hidden):,} more characters …'
  middle = (
    f'<details class="folded"><summary>{note}</summary>'
    f'{shown(hidden, role)}</details>'
  )
  return ''.join(
    (
      shown(before, role) if before else '',
      middle,
      shown(after, role) if after else '',
    )
  )


def _references(view: View) -> str:
  later = views.later_references(view)
  if not later:
    return ''
  items = ''.join(
    f'<li value="{number}">{shown(text)}</li>\n' for number, text in later
  )
  return (
    '<details class="references answer" open>'
    '<summary>references after the target: a prediction may cover several'
    f'</summary>\n<ol>\n{items}</ol></details>\n'
  )
