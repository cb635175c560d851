// Shows PretrainZero's game: paragraphs, the spans that were chosen in them, and
// who predicted each span.
const LONG = 1500, AROUND = 250;  // Characters: of a long text, beside a span.

// Says how to read the paragraphs of a step, if it has a game.
function gameNote() {
  if (!groups.some(isOfGame)) return '';
  return (groups.some(isChooser) ? 'The policy chose spans of a paragraph to ' +
    'hide, and then tried to predict each of them. A span earns the share of ' +
    'its predictions that are wrong, but nothing if all are. ' : 'Spans of a ' +
    'paragraph were hidden by chance, and the policy tried to predict each ' +
    'of them. ') + 'Blue: some predictions are right; orange: none; gray: ' +
    'all. Select a span to read what was said about it.';
}

const isOfGame = (group) => group.paragraph != null;
const isChooser = (group) => isOfGame(group) && !group.chosen_by;
const reasonsOf = (group) => isChooser(group) ? 'spans' : 'reasons';

// Joins the groups of a paragraph, each with its answers that pass the filters.
function byParagraph(matches) {
  const joined = new Map();
  for (const match of matches) {
    const of = match[0].paragraph ?? match[0];
    joined.set(of, [...joined.get(of) ?? [], match]);
  }
  // A file has all groups of predictions before those that choose.
  return [...joined].sort(([a], [b]) => a - b || 0).map(([of, parts]) =>
    typeof of === 'number' ? [paragraph(of, parts.map(([group]) => group)),
      new Map(parts)] : parts[0]);
}

function countParagraphs(matches) {
  const all = new Set(groups.flatMap(({paragraph}) => paragraph ?? []));
  return all.size ? `, ${matches.length} of ${all.size} paragraphs` : '';
}

// Returns a paragraph, its spans, and the answers by which it is ordered: those
// that choose, if any of them passes the filters.
function paragraph(number, fitting) {
  const all = groups.filter((group) => group.paragraph === number);
  const chooser = all.find(isChooser);
  const predicted = all.filter((group) => group !== chooser);
  const spans = [...predicted.map((group) => spanOf(group, chooser))
    .sort((a, b) => a.start - b.start || a.end - b.end),
  ...chooser ? unusable(chooser, predicted) : []];
  spans.forEach((span, i) => span.number = span.group ? i + 1 : null);
  const key = `p${number + 1}`;
  return {number, chooser, predicted, spans, key,
    keys: [key, ...spans.map((span) => span.key)],
    text: chooser?.references[0] ?? predicted.find(({text}) => text).text,
    answers: fitting.includes(chooser) ? chooser.answers :
      fitting.flatMap((group) => group.answers)};
}

function spanOf(group, chooser) {
  const [start, end] = group.places[0] ?? [1e9, 1e9];
  return {start, end, group, places: group.places, text: group.references[0],
    key: String(group.number), look: outcome(group), times:
      group.chosen_by.length, answers: chooser ? chooser.answers.filter(
      ({sample}) => group.chosen_by.includes(sample)) : []};
}

// Returns the spans that are not predicted; equal ones are joined.
function unusable(chooser, predicted) {
  const used = predicted.flatMap((group) => group.chosen_by);
  const found = new Map();
  for (const answer of chooser.answers) {
    if (used.includes(answer.sample)) continue;
    const text = answer.answer ? answer.text.slice(...answer.answer) : '';
    const same = JSON.stringify([answer.reason, text]);
    const span = found.get(same) ?? {text, places: [], look: 'unusable',
      key: `${chooser.number}.${answer.sample}`, answers: []};
    span.answers.push(answer);
    span.times = span.answers.length;
    found.set(same, span);
  }
  return [...found.values()];
}

function outcome(group) {
  const rewards = known(group);
  if (!rewards.length) return 'none';
  if (!rewards.some((r) => r > 0)) return 'nobody';
  return rewards.every((r) => r >= 1) ? 'everybody' : 'some';
}

function paragraphCard(it, fits) {
  const id = `group-${it.key}`;
  const link = make('a', {href: `#${id}`, click: (event) => {
    event.preventDefault();
    choose({group: it.key});
    byId(id)?.scrollIntoView();
  }}, `Paragraph ${it.number + 1}`);
  const card = make('article', {id, class:
    `group${state.group === it.key ? ' chosen' : ''}`});
  const rows = it.spans.map((span) => spanRow(span, it, fits, card));
  card.append(paragraphHeader(it, link),
    make('div', {class: 'text paragraph'}, marked(it, rows)),
    make('div', {class: 'span-row titles'}, make('h4', {}, it.chooser ?
      'Spans that the policy chose' : 'Spans that were chosen by chance'),
    make('h4', {}, 'Predictions of each')),
    ...rows.map(({element}) => element));
  return card;
}

function paragraphHeader({chooser, predicted, spans}, link) {
  const answers = predicted.flatMap((group) => group.answers);
  const facts = [];
  if (chooser) {
    const usable = spans.reduce((sum, span) =>
      sum + (span.group ? span.times : 0), 0);
    facts.push(`${usable} of ${chooser.answers.length} spans usable`,
      known(chooser).length ? `spans earn ${short(meanReward(chooser))}` :
        'no verdict');
    if (known(chooser).length > 1 && spread(chooser) < 1e-6)
      facts.push('all alike: nothing to learn from');
    if (chooser.answers.every(({advantage}) => advantage == null))
      facts.push('not learned from');
  }
  if (known({answers}).length)
    facts.push(`predictions earn ${short(meanReward({answers}))}`);
  return make('header', {}, make('h3', {}, link),
    explained((chooser ?? predicted[0]).example, data.words.example),
    ...facts.map((fact) => make('span', {}, fact)));
}

// Returns the paragraph's text, in which each span is a mark with its number.
function marked({text, spans}, rows) {
  const ends = spans.flatMap((span) => span.places.flat());
  const edges = [...new Set([0, ...ends, text.length])].sort((a, b) => a - b);
  // The whole text in one element: its parts take its direction.
  const element = make('bdi', {dir: direction(text)});
  edges.slice(0, -1).forEach((start, i) => {
    const end = edges[i + 1], piece = text.slice(start, end);
    const there = rows.filter(({span}) => span.places.some(
      ([from, to]) => from <= start && end <= to));
    if (!there.length) {
      element.append(...between(piece, text.length, end === text.length));
      return;
    }
    // The color of the shortest one, which lies within the others.
    const {span} = there.reduce((a, b) =>
      b.span.text.length < a.span.text.length ? b : a);
    const numbers = there.flatMap(({span: {number, places}}) =>
      places.some(([from]) => from === start) ? [number] : []);
    const mark = make('mark', {class: span.look, 'data-numbers':
      numbers.join(' ') || null, click: () => select(there, span)},
    ...shown(piece).childNodes);
    there.forEach((row) => row.marks.push(mark));
    element.append(mark);
  });
  return element;
}

const direction = (text) =>
  /^[^\p{L}]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/u.test(text) ?
    'rtl' : 'ltr';

// Folds a long text; its beginning and what is next to a span stay visible.
function between(piece, total, isEnd) {
  const tail = isEnd ? 0 : AROUND;
  if (total < LONG || piece.length < 2.5 * AROUND + tail)
    return shown(piece).childNodes;
  const from = wordStart(piece, AROUND);
  const to = wordStart(piece, piece.length - tail);
  const hidden = piece.slice(from, to);
  return [...shown(piece.slice(0, from)).childNodes,
    make('details', {class: 'folded'}, make('summary', {}, `… ${
      hidden.length.toLocaleString('en')} more characters …`),
    ...shown(hidden).childNodes), ...shown(piece.slice(to)).childNodes];
}

// Returns where a word begins soon after a place, or that place.
function wordStart(text, at) {
  const far = text.slice(at, at + 40).search(/\s/);
  return far >= 0 ? at + far + 1 : at + /[\udc00-\udfff]/.test(text[at]);
}

// Opens the row of a span that was clicked in the paragraph.
function select(rows, span) {
  const {element} = rows.find((row) => row.span === span);
  element.open = true;
  remember(span);
  element.scrollIntoView({block: 'nearest'});
}

// A link to the page opens this span; the view need not be drawn again.
function remember(span) {
  Object.assign(state, {group: span.key, at: 'rollouts'});
  writeAddress();
}

// Returns a span beside its predictions; when it is opened, all that was said.
function spanRow(span, it, fits, card) {
  const row = {span, marks: []};
  const fit = new Map([...fits].flatMap(([group, fit]) =>
    group.answers.map((answer, i) => [answer, fit[i]])));
  const fitting = [...span.answers, ...span.group?.answers ?? []].some(
    (answer) => fit.get(answer));
  const summary = make('summary', {class: 'span-row', click: () =>
    remember(span)}, chosenSpan(span, it), predictions(span));
  const element = make('details', {id: `group-${span.key}`, class:
    `span ${span.look}${fitting ? '' : ' other'}`,
  open: state.group === span.key}, summary);
  const mark = (name, on) => row.marks.forEach((mark) =>
    mark.classList.toggle(name, on));
  let isFilled = false;
  const fill = () => {
    if (!isFilled) element.append(said(span, it, fit, card));
    isFilled = true;
  };
  if (element.open || state.find.trim()) fill();
  element.addEventListener('toggle', () => {
    if (element.open) fill();
    mark('chosen', element.open);
  });
  summary.addEventListener('pointerenter', () => mark('near', true));
  summary.addEventListener('pointerleave', () => mark('near', false));
  return {...row, element};
}

function chosenSpan(span, {chooser}) {
  const {text, answers, times, look, number} = span;
  const facts = make('p', {class: 'facts'});
  if (chooser) {
    const [{reward, reason}] = answers;
    facts.append(make('b', {}, reward == null ? 'no verdict' :
      `reward ${short(reward)}`),
    explained(reason, meaning('spans', reason)));
    const advantages = new Set(answers.flatMap(({advantage}) =>
      advantage == null ? [] : [signed(advantage)]));
    if (advantages.size)
      facts.append(explained(`advantage ${[...advantages].join(', ')}`,
        data.words.advantage));
  }
  if (times > 1) facts.append(make('span', {}, `chosen ${times} times`));
  const places = span.places.length;
  if (places > 1) facts.append(make('span', {}, `hidden in ${places} places`));
  if (span.group?.ends) facts.append(make('span', {}, 'the passage ends here'));
  return make('div', {class: 'cell'}, make('p', {}, text ? make('mark',
    {class: look, 'data-numbers': number}, shown(clipped(text, 200))) :
    make('span', {class: 'note'}, 'no span')), facts);
}

const clipped = (text, most) => text.length <= most ? text :
  text.slice(0, most).replace(/[\ud800-\udbff]$/, '') + ' …';

function predictions({group, answers}) {
  if (!group)
    return make('div', {class: 'cell'}, make('p', {class: 'note'},
      'not predicted: ', meaning('spans', answers[0].reason) ?? 'not usable'));
  const rewards = known(group), right = rewards.filter((r) => r > 0).length;
  const facts = make('p', {class: 'facts'}, make('b', {}, rewards.length ?
    `${right} of ${rewards.length} right` : 'no verdict'), pips(group),
  rewards.length ? make('span', {}, `accuracy ${short(meanReward(group))}`) :
    null);
  const missing = group.answers.length - rewards.length;
  if (rewards.length && missing)
    facts.append(make('span', {}, `${missing} without a verdict`));
  if (group.answers.every(({advantage}) => advantage == null))
    facts.append(make('span', {}, 'not learned from'));
  return make('div', {class: 'cell'}, facts,
    make('p', {class: 'chips'}, ...chips(group)));
}

// Returns a square for each prediction, from right to wrong.
function pips(group) {
  const looks = group.answers.map((answer) => lookOf(answer.reward));
  const order = ['above', 'zero', 'none'];
  return make('span', {class: 'pips', 'aria-hidden': 'true'}, ...looks.sort(
    (a, b) => order.indexOf(a) - order.indexOf(b)).map(
    (look) => make('i', {class: look})));
}

// Returns the different predictions of a span, from right to wrong.
function chips(group) {
  const found = new Map();
  for (const answer of group.answers) {
    const text = answer.answer ? answer.text.slice(...answer.answer) : '';
    const r = answer.reward, look = lookOf(r);
    const same = JSON.stringify([look, text || answer.reason]);
    const entry = found.get(same) ?? {text, look, r: r ?? -Infinity,
      reason: answer.reason, times: 0};
    entry.times++;
    found.set(same, entry);
  }
  return [...found.values()].sort((a, b) => b.r - a.r || b.times - a.times).map(
    ({text, look, reason, times}) => make('span', {class: `chip ${look}`},
      {above: '✓ ', zero: '✗ ', none: '? '}[look], text ?
        shown(clipped(text, 60)) : explained(reason ?? 'no answer', meaning(
          'reasons', reason), 'note'), times > 1 ? ` ×${times}` : null));
}

const lookOf = (reward) =>
  reward == null ? 'none' : reward > 0 ? 'above' : 'zero';

// Returns everything that was said about a span, in both roles.
function said({group, answers}, {chooser}, fit, card) {
  const cards = (answers, of) => make('div', {class: 'answers'},
    ...answers.map((answer) => answerCard(answer, of, fit.get(answer), card)));
  const part = (of, answers) => make('div', {class: 'cell'}, of.prompt == null ?
    null : promptOf(of), cards(answers, of));
  return make('div', {class: 'span-row said'},
    answers.length ? part(chooser, answers) : make('div', {}),
    group ? part(group, group.answers) : null);
}
