// `state` decides what is shown, and it is in the address, so a link shares a
// view. Only `shown` turns foreign texts into nodes.
'use strict';
const byId = (id) => document.getElementById(id);
const DEFAULTS = {
  x: 'step', smooth: '0.6', off: '',  // Curves; `off`: runs not drawn.
  run: '0', step: '', kind: '', reward: '', finish: '', reason: '', find: '',
  order: '', tokens: '', group: '', at: '',
};
const state = {...DEFAULTS};
let data, unseen;

function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const key in DEFAULTS) state[key] = said.get(key) ?? DEFAULTS[key];
}

function writeAddress() {
  const said = new URLSearchParams();
  for (const key in DEFAULTS)
    if (state[key] !== DEFAULTS[key]) said.set(key, state[key]);
  history.replaceState(null, '', '#' + said);
}

// Returns the data of an element: JSON, compressed by gzip, in base64.
async function unpacked(id) {
  const text = byId(id).textContent;
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(text);
  else {
    const binary = atob(text);
    bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  }
  const stream = new Blob([bytes]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream('gzip')))
    .json();
}

// Returns an element with attributes and children; strings become text.
function make(tag, attributes = {}, ...children) {
  const svg = /^(svg|path|line|text|g)$/.test(tag);
  const element = svg ?
    document.createElementNS('http://www.w3.org/2000/svg', tag) :
    document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child != null));
  return element;
}

// Returns an element with a foreign text. Characters that are invisible or act on
// their surroundings are spelled out, and the text's direction stays its own.
function shown(text, classes) {
  const element = make('bdi', {class: classes || null});
  let start = 0;
  for (const match of text.matchAll(unseen)) {
    element.append(text.slice(start, match.index),
      make('span', {class: 'unseen'}, spelled(match[0])));
    start = match.index + match[0].length;
  }
  element.append(text.slice(start));
  return element;
}

// Returns the meaning of a word among `kinds`, `reasons` or `endings`, if known.
function meaning(of, name) {
  const known = (word) => Object.hasOwn(data.words[of], word) ?
    data.words[of][word] : null;
  // The reason of a part is 'part/reason'.
  return name && (known(name) ?? known(name.replace(/^[^/]*\//, '')));
}

function explained(text, meant, classes = '') {
  const element = shown(text, meant ? `${classes} word`.trim() : classes);
  if (meant) element.title = meant;
  return element;
}

function spelled(character) {
  const code = character.codePointAt(0), hex = code.toString(16);
  if (character === '\r') return '\\r';
  return code < 256 ? '\\x' + hex.padStart(2, '0') :
    code < 65536 ? '\\u' + hex.padStart(4, '0') : '\\U' + hex.padStart(8, '0');
}

function choice(name, label, options, change) {
  const select = make('select', {name, 'aria-label': label,
    change: () => change(select.value)});
  for (const [value, text] of options)
    select.append(make('option', {value, selected: state[name] === value},
      text));
  return make('label', {}, label + ' ', select);
}

const LETTERS = [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']];

function short(value) {
  if (value == null) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 1e15 || size < 1e-3) return (+value.toPrecision(3)).toExponential();
  const rounded = +value.toPrecision(3); // First: 999,999 becomes a million.
  for (const [unit, letter] of LETTERS)
    if (Math.abs(rounded) >= unit) return +(rounded / unit).toPrecision(3) + letter;
  return String(rounded);
}

async function start() {
  data = await unpacked('data');
  unseen = new RegExp(data.unseen, 'gu');
  readAddress();
  startCurves();
  await startRollouts();
  const chosen = state.at === 'rollouts' && byId(`group-${state.group}`);
  if (state.at) (chosen || byId(state.at))?.scrollIntoView();
  addEventListener('hashchange', async () => {
    // A link to a part of the page becomes `at` in the address of the view.
    const part = location.hash.slice(1);
    if (part && byId(part)) {
      state.at = part;
      writeAddress();
      return;
    }
    readAddress();
    startCurves();
    await startRollouts();
  });
}
