// Shows the rollouts of the chosen step, a page of groups at a time.
const PAGE = 5, IN_SIGHT = 300;  // Groups; characters of a long text.
let groups = [], matches = [], drawn = 0, loaded = '', stepsOf = null;
let ends = new Map();

const REWARDS = {
  '': ['any', () => true],
  above: ['above 0', (r) => r > 0],
  zero: ['0 or below', (r) => r != null && r <= 0],
  none: ['no verdict', (r) => r == null],
  apart: ['verdicts differ', (r, parts) => parts.some(
    ([, part]) => differs(part, r))],
};
const ORDERS = {
  '': ['as sampled', null],
  low: ['lowest reward first', (group) => meanReward(group)],
  high: ['highest reward first', (group) => -meanReward(group)],
  mixed: ['largest spread first', (group) => -spread(group)],
};

function known(group) {
  return group.answers.map((x) => x.reward).filter((r) => r != null);
}

function meanReward(group) {
  const rewards = known(group);
  return rewards.reduce((a, b) => a + b, 0) / Math.max(1, rewards.length);
}

function spread(group) {
  const mean = meanReward(group), rewards = known(group);
  return rewards.reduce((sum, r) => sum + (r - mean) ** 2, 0) /
    Math.max(1, rewards.length);
}

async function startRollouts() {
  const withSome = data.runs.findIndex((run) => run.rollouts.length);
  if (withSome < 0) {
    byId('rollout-note').textContent =
      'None of these runs kept rollouts; train_rl does, train_sft has none to ' +
      'keep.';
    byId('rollout-tools').hidden = true;
    return;
  }
  if (!data.runs[state.run]?.rollouts.length) state.run = String(withSome);
  await load();
}

const kept = () => data.runs[state.run].rollouts;

// Returns the index of the chosen step, or of the nearest that is kept.
function place() {
  const steps = kept().map((entry) => entry.step);
  if (state.step === '') return steps.length - 1;
  const away = steps.map((step) => Math.abs(step - Number(state.step)));
  return Math.max(0, away.indexOf(Math.min(...away)));
}

async function load() {
  const {step} = kept()[place()];
  const id = `rollouts-${state.run}-${step}`;
  if (loaded !== id) {
    byId('rollout-count').textContent = `unpacking step ${step} …`;
    groups = [];
    const found = await unpacked(id);
    if (id !== `rollouts-${state.run}-${kept()[place()].step}`) return;
    groups = found;
    groups.forEach((group, i) => group.number = i + 1);
    ends = endings(groups);
    loaded = id;
  }
  rolloutTools();
  filter();
  const chosen = byId(`group-${state.group}`);
  if (chosen && state.at === 'rollouts') chosen.scrollIntoView();
}

function say() {
  const answers = groups.flatMap((group) => group.answers);
  const words = [data.runs[state.run].note, gameNote()];
  if (!answers.length) words.push('No rollouts of this step were kept.');
  else if (groups.every((group) => group.prompt == null))
    words.push('This run did not keep the prompts of its rollouts.');
  if (state.tokens && answers.some((x) => x.token_texts)) words.push(TOKENS);
  byId('rollout-note').textContent = words.filter(Boolean).join(' ');
  glossary(answers);
}

// Lists the words of this step: a touch screen cannot show their tooltips.
function glossary(answers) {
  const parts = answers.flatMap((x) => x.parts);
  const reasons = (of) => groups.flatMap((group) => reasonsOf(group) === of ?
    group.answers.map((x) => x.reason) : []);
  const said = {
    kinds: groups.map((group) => group.kind),
    endings: answers.map((x) => x.finish_reason),
    spans: reasons('spans'),
    reasons: [...reasons('reasons'), ...parts.map(([, , reason]) => reason)],
  };
  const rows = Object.entries(said).flatMap(([of, words]) =>
    [...new Set(words)].map((word) => [of === 'endings' ? ended(word) : word,
      meaning(of, word)]));
  rows.push(...new Map(parts.map(([name]) => [name, data.words.part])));
  if (answers.some((x) => x.advantage != null))
    rows.push(['advantage', data.words.advantage]);
  const named = groups.find((group) => !group.chosen_by) ?? groups[0];
  if (named) rows.unshift([named.example, data.words.example]);
  byId('words').querySelector('dl').replaceChildren(...rows.flatMap(
    ([word, meant]) => meant ? [make('div', {}, make('dt', {}, shown(word)),
      make('dd', {}, meant))] : []));
  byId('words').hidden = !rows.length;
}

function choose(changes) {
  Object.assign(state, {group: '', at: 'rollouts'}, changes);
  writeAddress();
  if ('run' in changes || 'step' in changes) return load();
  filter();
}

function counted(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]);
}

function rolloutTools() {
  const tools = byId('rollout-tools');
  if (stepsOf !== state.run) stepTools(tools);
  const at = place(), {step, reward} = kept()[at];
  const {back, steps, on, find} = tools.elements;
  steps.value = at;
  steps.setAttribute('aria-valuetext', `step ${step}`);
  // A disabled button would lose the focus; aria-disabled keeps it.
  back.setAttribute('aria-disabled', at === 0);
  on.setAttribute('aria-disabled', at === kept().length - 1);
  tools.querySelector('.steps output').value = `step ${step}` +
    (reward == null ? '' : ` · mean reward ${short(reward)}`);
  if (document.activeElement !== find) filterTools(tools);
  tools.hidden = false;
}

// Made once per run: a slider must not be replaced while it is dragged.
function stepTools(tools) {
  stepsOf = state.run;
  const runs = data.runs.flatMap((run, i) => run.rollouts.length ?
    [[String(i), plain(run.name)]] : []);
  const last = kept().length - 1;
  const go = (to) => choose(
    {step: String(kept()[Math.min(last, Math.max(0, to))].step)});
  tools.replaceChildren(
    ...(runs.length > 1 ? [choice('run', 'run', runs,
      (run) => choose({run}))] : []),
    make('span', {class: 'steps'},
      make('button', {type: 'button', name: 'back', 'aria-label':
        'previous step', click: () => go(place() - 1)}, '◀'),
      make('input', {type: 'range', name: 'steps', 'aria-label': 'step',
        min: 0, max: last, input: (event) => go(+event.target.value)}),
      make('button', {type: 'button', name: 'on', 'aria-label': 'next step',
        click: () => go(place() + 1)}, '▶'),
      make('output', {})),
    make('span', {class: 'filters'}));
}

function filterTools(tools) {
  const answers = groups.flatMap((group) => group.answers);
  const some = (name, label, values) => {
    const counts = counted(values);
    // The chosen value stays in the list even if this step has none of it.
    if (state[name] && !counts.some(([value]) => value === state[name]))
      counts.push([state[name], 0]);
    return choice(name, label, [['', 'all'], ...counts.map(([value, count]) =>
      [value, `${plain(value)} (${count})`])],
      (value) => choose({[name]: value}));
  };
  const search = make('input', {type: 'search', name: 'find',
    placeholder: 'search', 'aria-label': 'search', value: state.find,
    input: later(() => choose({find: search.value}))});
  tools.querySelector('.filters').replaceChildren(
    some('kind', 'task', groups.map((group) => group.kind)),
    choice('reward', 'reward', Object.entries(REWARDS).flatMap(
      ([value, [text]]) => value !== 'apart' || state.reward === value ||
        answers.some((x) => x.parts.length) ? [[value, text]] : []),
    (reward) => choose({reward})),
    some('finish', 'ended by', answers.map((x) => x.finish_reason ?? '?')),
    some('reason', 'reason', answers.map((x) => x.reason ?? '?')),
    choice('order', 'order', Object.entries(ORDERS).map(
      ([value, [text]]) => [value, text]), (order) => choose({order})),
    make('label', {}, make('input', {type: 'checkbox', name: 'tokens',
      checked: state.tokens !== '', change: (event) => choose(
        {tokens: event.target.checked ? 'on' : ''})}), ' token by token'),
    search);
}

const plain = (text) => text.replace(unseen, spelled);

let waiting;
const later = (act) => () => {
  clearTimeout(waiting);
  waiting = setTimeout(act, 150);
};

const escapedPattern = (words) => words.replace(/[.*+?^${}()|[\]\\\/]/g, '\\$&');

// Finds the groups with an answer that passes the filters, and those answers.
function filter() {
  say();
  const words = state.find.trim();
  const has = new RegExp(escapedPattern(words), 'iu');
  const [, ofReward] = REWARDS[state.reward] ?? REWARDS[''];
  matches = [];
  let count = 0;
  for (const group of groups) {
    if (state.kind && group.kind !== state.kind) continue;
    const around = words && [group.example, group.prompt ?? '',
      ...group.references].some((text) => has.test(text));
    const fit = group.answers.map((x) => ofReward(x.reward, x.parts) &&
      (!state.finish || (x.finish_reason ?? '?') === state.finish) &&
      (!state.reason || (x.reason ?? '?') === state.reason) &&
      (!words || around || has.test(x.text)));
    const some = fit.filter(Boolean).length;
    count += some;
    if (some) matches.push([group, fit]);
  }
  const total = groups.reduce((sum, group) => sum + group.answers.length, 0);
  byId('rollout-count').textContent = `${count.toLocaleString('en')} of ${
    total.toLocaleString('en')} answers, in ${matches.length.toLocaleString(
    'en')} of ${groups.length.toLocaleString('en')} groups`;
  matches = byParagraph(matches);
  byId('rollout-count').append(countParagraphs(matches));
  const [, key] = ORDERS[state.order] ?? ORDERS[''];
  if (key) matches.sort((a, b) => key(a[0]) - key(b[0]));
  byId('groups').replaceChildren();
  drawn = 0;
  // Show groups down to the one that the address names.
  const wanted = matches.findIndex(([g]) => String(g.number) === state.group ||
    g.keys?.includes(state.group));
  more(Math.max(PAGE, wanted + 1));
}

function more(count) {
  byId('more-groups')?.remove();
  const next = matches.slice(drawn, drawn + count);
  byId('groups').append(...next.map(([group, fit]) => group.keys ?
    paragraphCard(group, fit) : groupCard(group, fit)));
  drawn += next.length;
  const left = matches.length - drawn;
  if (left)
    byId('groups').append(make('p', {id: 'more-groups', class: 'tools'},
      make('button', {type: 'button', click: () => {
        const first = drawn;
        more(PAGE);
        byId('groups').children[first]?.querySelector('a')?.focus();
      }}, `${Math.min(PAGE, left)} more ${
        matches[0][0].keys ? 'paragraphs' : 'groups'}`),
      left > PAGE ? make('small', {}, `of ${left}`) : null));
  highlight();
}

function highlight() {
  if (!self.Highlight) return;
  const words = state.find.trim(), ranges = [];
  const pattern = new RegExp(escapedPattern(words), 'giu');
  const nodes = document.createTreeWalker(byId('groups'),
    NodeFilter.SHOW_TEXT);
  while (words && nodes.nextNode() && ranges.length < 2000) {
    const node = nodes.currentNode;
    if (!node.parentElement.closest('bdi')) continue;
    for (const match of node.data.matchAll(pattern)) {
      ranges.push(new StaticRange({startContainer: node,
        startOffset: match.index, endContainer: node,
        endOffset: match.index + match[0].length}));
      let folded = node.parentElement.closest('details');
      for (; folded; folded = folded.parentElement.closest('details'))
        folded.open = true;
    }
  }
  CSS.highlights.set('found', new Highlight(...ranges));
}

function groupCard(group, fit) {
  const link = make('a', {href: `#group-${group.number}`, click: (event) => {
    event.preventDefault();
    choose({group: String(group.number)});
    byId(`group-${group.number}`)?.scrollIntoView();
  }}, `Group ${group.number}`);
  const rewards = known(group), meant = meaning('kinds', group.kind);
  const card = make('article', {id: `group-${group.number}`, class:
    `group${String(group.number) === state.group ? ' chosen' : ''}`},
    make('header', {}, make('h3', {}, link),
      shown(group.kind + (meant ? ` (${meant})` : '')),
      explained(group.example, data.words.example),
      make('span', {}, rewards.length ? `mean reward ${
        short(meanReward(group))}` : 'no verdict'),
      rewards.length > 1 && spread(group) < 1e-6 ? make('span', {},
        'all alike: nothing to learn from') : null,
      group.answers.every(({advantage}) => advantage == null) ?
        make('span', {}, 'not learned from') : null));
  if (group.prompt != null) card.append(promptOf(group));
  if (group.references.length) card.append(references(group));
  card.append(make('div', {class: 'answers'}, ...group.answers.map(
    (answer, i) => answerCard(answer, group, fit[i], card))));
  return card;
}

const promptOf = (group) => make('details', {class: 'prompt'},
  make('summary', {}, 'prompt: … ', shown(tail(group))),
  make('div', {class: 'text'}, shown(group.prompt)));

const wordsOf = (text) => text.match(/\S+|\s+/g) ?? [];

// Returns, for each task, the number of last words that all its prompts share:
// the question of the task.
function endings(groups) {
  const found = new Map();
  for (const kind of new Set(groups.map((group) => group.kind))) {
    const [first, ...others] = groups.filter((group) =>
      group.kind === kind && group.prompt != null).map((group) =>
      wordsOf(group.prompt).reverse());
    if (others.length)
      found.set(kind, Math.min(...others.map((words) => {
        const apart = first.findIndex((word, n) => word !== words[n]);
        return apart < 0 ? 0 : apart;
      })));
  }
  return found;
}

// Returns the end of a prompt before the words that all prompts share.
function tail({kind, prompt}) {
  const words = wordsOf(prompt);
  const text = words.slice(0, words.length - (ends.get(kind) ?? 0)).join('')
    .trim().replace(/\s+/g, ' ');
  if (text.length <= 90) return text;
  return text.slice(-90).replace(/^\S{0,20} /, '')
    .replace(/^[\udc00-\udfff]/, '');
}

function references(group) {
  const label = group.references.length > 1 ?
    'the text that really follows; underlined: the segment to predict' :
    'reference';
  return make('div', {class: 'references'}, make('h4', {}, label),
    make('div', {class: 'text'}, ...group.references.map((text, i) =>
      shown(text, i || group.references.length === 1 ? '' : 'asked'))));
}

function answerCard(answer, group, fits, card) {
  const r = answer.reward;
  const look = lookOf(r);
  const facts = make('p', {class: 'facts'}, make('b', {}, r == null ?
    'no verdict' : `reward ${short(r)}`));
  if (reasonsOf(group) === 'spans')
    facts.append(explained(answer.reason, meaning('spans', answer.reason)));
  // The judge is not asked about answers with a format failure.
  else if (answer.reason)
    facts.append(verdict(/^(right|wrong)$/.test(answer.reason) ?
      data.runs[state.run].judge : '', null, answer.reason));
  // The parts of the reward, including those that are only recorded.
  for (const [name, reward, reason] of answer.parts)
    facts.append(verdict(name, reward, reason,
      differs(reward, r) ? 'warn' : ''));
  if (answer.finish_reason)
    facts.append(explained(ended(answer.finish_reason),
      meaning('endings', answer.finish_reason),
      answer.finish_reason === 'length' ? 'warn' : ''));
  if (answer.tokens != null)
    facts.append(make('span', {}, `${answer.tokens} tokens`));
  if (answer.advantage != null)
    facts.append(explained(`advantage ${signed(answer.advantage)}`,
      data.words.advantage));
  const near = closest(answer, group.references);
  const element = make('div', {class: `answer ${look}${fits ? '' : ' other'}`},
    facts, completion(answer));
  for (const text of answer.unread)
    element.append(make('p', {class: 'note'}, 'the judge answered: ',
      text ? shown(text) : '(nothing)'));
  // The first segment alone is already shown above all answers.
  if (near > 1)
    element.append(make('h4', {}, `closest in words: segments 1 to ${near}`),
      make('div', {class: 'text'}, shown(
        group.references.slice(0, near).join('').trim(), 'closest')));
  const mark = (on) => card.querySelectorAll('.references bdi').forEach(
    (bdi, i) => bdi.classList.toggle('near', on && i < near));
  element.addEventListener('pointerenter', () => mark(true));
  element.addEventListener('pointerleave', () => mark(false));
  return element;
}

// Shows 'truth: wrong', or 'length: 0.3 scored' if the reason implies no number.
function verdict(name, reward, reason, classes = '') {
  const number = reward == null ||
    /^(right$|wrong$|short$|format\/)/.test(reason) ? '' : `${short(reward)} `;
  return make('span', {class: classes}, ...(name ?
    [explained(name, data.words.part), ': '] : []), number,
  explained(reason, meaning('reasons', reason)));
}

const ended = (how) => how === 'length' ? 'cut: length' : `ended: ${how}`;

const differs = (a, b) => a != null && b != null && a > 0 !== b > 0;

const signed = (x) => (x > 0 ? '+' : '') + short(x);

// Returns the k for which an answer's words are most like the first k segments.
// This only helps the reader; it is no verdict.
function closest(answer, references) {
  if (!answer.answer || !references.length) return 0;
  const words = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  const left = new Map();
  const said = words(answer.text.slice(...answer.answer));
  for (const word of said) left.set(word, (left.get(word) ?? 0) + 1);
  let best = 1, score = 0, common = 0, count = 0;
  references.forEach((text, i) => {
    for (const word of words(text)) {
      count++;
      if (left.get(word)) common++, left.set(word, left.get(word) - 1);
    }
    const f1 = 2 * common / Math.max(1, said.length + count);
    if (f1 > score) best = i + 1, score = f1;
  });
  return best;
}

function completion(answer) {
  const element = make('div', {class: 'text'}), {text} = answer;
  if (state.tokens) return byToken(element, answer);
  if (!text) return make('p', {class: 'note'}, 'an empty answer');
  const [start, end] = answer.answer ?? [text.length, text.length];
  fold(element, text.slice(0, start), true);
  if (end > start)
    // Allow a line break between a tag and the answer, which have no space.
    element.append(make('wbr'), make('mark', {class: 'answer'},
      shown(text.slice(start, end))), make('wbr'));
  fold(element, text.slice(end), false);
  return element;
}

// Folds a long text; its end stays visible before an answer, its start after one.
function fold(element, text, before) {
  if (text.length <= IN_SIGHT * 5 / 4) {
    if (text) element.append(shown(text, 'around'));
    return;
  }
  let cut = before ? text.length - IN_SIGHT : IN_SIGHT;
  const blank = text.slice(cut, cut + 40).search(/\s/);
  if (blank >= 0) cut += blank + 1;
  else if (/[\udc00-\udfff]/.test(text[cut])) cut++;
  const hidden = before ? text.slice(0, cut) : text.slice(cut);
  const rest = shown(before ? text.slice(cut) : text.slice(0, cut), 'around');
  const folded = make('details', {class: 'folded'}, make('summary', {},
    `… ${hidden.length.toLocaleString('en')} more characters …`),
    shown(hidden, 'around'));
  element.append(...(before ? [folded, rest] : [rest, folded]));
}

byId('rollout-tools').addEventListener('submit', (e) => e.preventDefault());
byId('curve-tools').addEventListener('submit', (e) => e.preventDefault());
start();
