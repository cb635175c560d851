// Searches and filters examples. Highlights matches if the browser can, and opens
// folded text that holds one, but no target that the reader has hidden.
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
