// Curves of all runs, with one cross-hair at the same x value on each of them.
const WIDTH = 400, HEIGHT = 190, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 22;
const DASHES = ['', '7 3', '2 3', '9 3 2 3'];
const AXES = {step: 'step', compute: 'compute (FLOPs)', time: 'wall time'};
// Empty for time, whose numbers have units.
const AXES_IN_SHORT = {step: 'step', compute: 'FLOPs', time: ''};
let panels = [], cross = null;  // An x value, or null: the end of each run.

const isOn = (i) => !state.off.split(',').includes(String(i));

function startCurves() {
  curveTools();
  panels = [];
  byId('main-panels').replaceChildren(...data.main.map(linePanel),
    ...data.runs.flatMap((run, i) =>
      Object.keys(run.time).length ? [timePanel(run, i)] : []));
  byId('more-panels').replaceChildren(...data.runs.flatMap(verdictPanels),
    ...data.more.map(linePanel));
  byId('game-panels')?.replaceChildren(
    ...Object.entries(data.shares).flatMap(sharePanels), ...data.game.map(linePanel));
  byId('more').hidden = !byId('more-panels').children.length;
  draw();
}

function curveTools() {
  const legend = make('fieldset', {'aria-label': 'runs'}, ...data.runs.map(
    (run, i) => make('label', {}, make('input', {type: 'checkbox',
      name: 'run', value: i, checked: isOn(i), change: toggle}), ' ',
      lineSample(i), shown(run.name))));
  const axes = Object.keys(AXES).filter((x) => data.runs.some((r) => r.x[x]));
  if (!axes.includes(state.x)) state.x = 'step';
  const along = make('fieldset', {'aria-label': 'horizontal axis'},
    'along ', ...axes.map((x) => make('label', {}, make('input', {
      type: 'radio', name: 'x', value: x, checked: state.x === x,
      change: () => set({x})}), ' ' + AXES[x])));
  const smooth = make('label', {}, 'smoothing ', make('input', {type: 'range',
    name: 'smooth', min: 0, max: 0.95, step: 0.05, value: state.smooth,
    input: (event) => set({smooth: event.target.value})}));
  const tools = byId('curve-tools');
  tools.replaceChildren(legend, along, smooth);
  tools.hidden = false;
}

const lineSample = (i) => make('svg', {class: 'sample', viewBox: '0 0 34 16',
  'aria-hidden': 'true'}, make('path', {class: `line run-${i % 8}`,
  d: 'M0 8H34', 'stroke-dasharray': DASHES[i % 4] || null,
  style: 'stroke-width: 3'}));

function toggle() {
  const boxes = [...byId('curve-tools').querySelectorAll('[name=run]')];
  set({off: boxes.flatMap((box, i) => box.checked ? [] : [i]).join(',')});
}

function set(changes) {
  Object.assign(state, changes);
  if ('x' in changes) cross = null;
  writeAddress();
  draw();
}

function linePanel({key, title, meaning, log}) {
  return panel(title, meaning, (frame) => drawLines(frame, key, log));
}

function timePanel(run, i) {
  const stack = {values: run.time, order: data.parts, unit: ' s',
    label: (name) => name.replace(/^timing\/|_s$/g, '')};
  return panel(titled('Time of a step: ', run, i), data.time,
    (frame) => drawParts(frame, run, i, stack));
}

function verdictPanels(run, i) {
  return Object.entries(run.verdicts).map(([part, values]) => {
    const what = part ? `Verdicts, ${plain(part)}: ` : 'Verdicts: ';
    const stack = {values, order: data.reasons, unit: '', top: 1,
      label: (name) => explained(name, meaning('reasons', name))};
    return panel(titled(what, run, i), data.verdicts,
      (frame) => drawParts(frame, run, i, stack));
  });
}

// Draws the shares of a game's spans, for each run.
function sharePanels([name, {title, meaning: meant, order}]) {
  return data.runs.flatMap((run, i) => {
    const stack = {values: run.shares[name], order, unit: '', top: 1,
      shades: name === 'accuracy',
      label: (part) => explained(part, meaning('spans', part))};
    return stack.values ? [panel(titled(`${title}: `, run, i), meant,
      (frame) => drawParts(frame, run, i, stack))] : [];
  });
}

const titled = (what, run, i) => make('span', {}, what,
  make('span', {class: `swatch run-${i % 8}`}), shown(run.name));

function panel(title, meaning, drawInto) {
  const svg = make('svg', {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0,
    role: 'img', 'aria-label': typeof title === 'string' ? title :
      title.textContent});
  const readout = make('output', {class: 'readout', 'aria-live': 'off'});
  const heading = make('h3', {});
  heading.append(typeof title === 'string' ? shown(title) : title);
  const figure = make('figure', {class: 'panel'}, heading,
    make('p', {}, shown(meaning)), svg, readout);
  const frame = {figure, svg, readout, draw: () => drawInto(frame)};
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * WIDTH;
    point(frame.scale ? frame.scale.back(at) : null);
  });
  svg.addEventListener('pointerleave', () => point(null));
  svg.addEventListener('blur', () => point(null));
  svg.addEventListener('keydown', (event) => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by || !frame.scale) return;
    event.preventDefault();
    readout.setAttribute('aria-live', 'polite');
    const {low, high} = frame.scale;
    const size = state.x === 'step' ? Math.max(1, Math.round(
      (high - low) / 100)) : (high - low) / 100;
    const from = cross ?? (by > 0 ? low - size : high + size);
    point(Math.min(high, Math.max(low, from + by * size)));
  });
  panels.push(frame);
  return figure;
}

function draw() {
  document.querySelectorAll('.run').forEach((card, i) =>
    card.classList.toggle('off', !isOn(i)));
  for (const frame of panels) frame.draw();
  point(cross);
}

function point(x) {
  cross = x == null || state.x !== 'step' ? x : Math.round(x);
  for (const frame of panels) frame.read?.();
}

// Returns the known points of a run's series: [xs, ys].
function points(run, values) {
  const along = run.x[state.x], xs = [], ys = [];
  if (along && values)
    values.forEach((y, i) => {
      if (y != null) xs.push(along[i]), ys.push(y);
    });
  return [xs, ys];
}

// Returns an exponential moving average, corrected for its start.
function smoothed(ys, weight) {
  let sum = 0, count = 0;
  return ys.map((y) => {
    sum = sum * weight + y;
    count = count * weight + 1;
    return sum / count;
  });
}

function drawLines(frame, key, log) {
  const lines = [];
  data.runs.forEach((run, i) => {
    if (!isOn(i)) return;
    const [xs, ys] = points(run, run.series[key]);
    if (xs.length)
      // Measurements that are not made in every step are not smoothed.
      lines.push({i, xs, ys, isFew: xs.length < run.x.step.length / 3});
  });
  const ys = lines.flatMap((line) => line.ys);
  const scale = frame.scale = scales(lines.flatMap((l) => l.xs), ys,
    log && Math.min(...range(ys)) > 0);
  if (!scale) return empty(frame);
  const marks = grid(scale);
  for (const {i, xs, ys, isFew} of lines) {
    const means = isFew ? ys : smoothed(ys, +state.smooth);
    const look = {class: `raw run-${i % 8}${isFew ? ' few' : ''}`, d: xs.map((x, n) =>
      `M${scale.x(x)} ${scale.y(ys[n])}h0`).join('')};
    marks.push(make('path', look), make('path', {
      class: `line run-${i % 8}`, 'stroke-dasharray': DASHES[i % 4] || null,
      d: 'M' + xs.map((x, n) => `${scale.x(x)} ${scale.y(means[n])}`)
        .join('L')}));
  }
  const line = crossLine();
  frame.svg.replaceChildren(...marks, line);
  frame.read = () => {
    const words = lines.map(({i, xs, ys}) => {
      const n = cross == null ? xs.length - 1 : nearest(xs, cross);
      return make('span', {}, make('span', {class: `swatch run-${i % 8}`}),
        shown(data.runs[i].name), short(n < 0 ? null : ys[n]));
    });
    frame.readout.replaceChildren(at(scale, line), ...words);
  };
}

// Returns the index of the last measurement up to x, -1 beyond the run's end.
function nearest(xs, x) {
  let low = 0, high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle + 1;
    else high = middle;
  }
  const last = xs[xs.length - 1];
  const slack = (last - xs[0]) / Math.max(1, xs.length - 1);
  return x > last + slack ? -1 : Math.max(0, low - 1);
}

// Draws stacked parts. With `top` they are shares of it, and are smoothed because
// shares of few answers jump. With `shades`, neighbours have similar colours.
function drawParts(frame, run, i, stack) {
  let {values, order, label, unit, top} = stack;
  const names = order.filter((name) => Object.hasOwn(values, name));
  const edges = run.x[state.x] ?? [], along = edges.slice(0, -1);
  if (!along.length || !isOn(i)) return frame.scale = null, empty(frame);
  const heights = new Map(names.map((name) => {
    const ys = along.map((_, n) => values[name][n + 1] ?? 0);
    return [name, top ? smoothed(ys, +state.smooth) : ys];
  }));
  top ??= usualTop(along.map((_, n) => names.reduce(
    (sum, name) => sum + heights.get(name)[n], 0)));
  const scale = frame.scale = scales(edges, [0, top]);
  const marks = grid(scale);
  let below = along.map(() => 0);
  const color = (name) => stack.shades ? `shade-${order.indexOf(name)}` :
    `run-${order.indexOf(name) % 8}`;
  names.forEach((name) => {
    const above = below.map((y, n) => y + heights.get(name)[n]);
    // The width of a step is its time, or its compute.
    const edge = (ys) => ys.flatMap((y, n) => [n, n + 1].map((m) =>
      `${scale.x(edges[m])} ${scale.y(Math.min(y, top))}`));
    marks.push(make('path', {class: `part ${color(name)}`,
      d: `M${[...edge(above), ...edge(below).reverse()].join('L')}Z`}));
    below = above;
  });
  const line = crossLine();
  frame.svg.replaceChildren(...marks, line);
  frame.read = () => {
    // The first step that ends at the cross-hair or after it.
    const n = edges.findIndex((edge) => edge >= cross);
    const mean = (name) => values[name].reduce((a, b) => a + (b ?? 0), 0) /
      along.length;
    frame.readout.replaceChildren(
      cross == null ? make('span', {class: 'at'}, 'mean') : at(scale, line),
      ...names.map((name) => make('span', {},
        make('span', {class: 'swatch ' + color(name)}), label(name), ' ' + (
          short(cross == null ? mean(name) : values[name][n])) + unit)));
    if (cross == null) line.setAttribute('visibility', 'hidden');
  };
}

// Returns a top that cuts off outliers: one step that compiles must not make all
// others invisible.
function usualTop(sums) {
  const sorted = sums.sort((a, b) => a - b);
  const usual = sorted[Math.floor(0.95 * (sorted.length - 1))] * 1.5;
  return Math.min(sorted[sorted.length - 1], usual);
}

function empty(frame) {
  frame.svg.replaceChildren(make('text', {x: WIDTH / 2, y: HEIGHT / 2,
    'text-anchor': 'middle'}, 'nothing to show for the chosen runs'));
  frame.read = null;
  frame.readout.replaceChildren();
}

function at(scale, line) {
  const there = cross != null && cross >= scale.low && cross <= scale.high;
  line.setAttribute('visibility', there ? 'visible' : 'hidden');
  if (there)
    line.setAttribute('transform', `translate(${scale.x(cross)} 0)`);
  const where = {step: (x) => `step ${x}`, time: duration,
    compute: (x) => short(x) + ' FLOPs'}[state.x];
  return make('span', {class: 'at'}, cross == null ? 'last' : where(cross));
}

const crossLine = () => make('line', {class: 'cross', x1: 0, x2: 0, y1: TOP,
  y2: HEIGHT - BOTTOM, visibility: 'hidden'});

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function scales(xs, ys, log = false) {
  if (!xs.length) return null;
  let [low, high] = range(xs), [bottom, top] = range(ys);
  const f = log ? Math.log10 : (y) => y;
  bottom = f(bottom), top = f(top);
  if (low === high) high = low + 1;
  // A constant needs room too; a constant 0 gets the range 0 to 1.
  const room = (top - bottom) * 0.05 || Math.abs(top) * 0.1 || 1;
  // Show 0 if it is near.
  bottom = !log && bottom >= 0 && bottom <= top * 0.5 ? 0 : bottom - room;
  top += room;
  const width = WIDTH - LEFT - RIGHT, height = HEIGHT - TOP - BOTTOM;
  const round = (value) => Math.round(value * 10) / 10;
  return {low, high, levels: log ? logTicks(bottom, top) :
    ticks(bottom, top, 4),
    x: (x) => round(LEFT + (x - low) / (high - low) * width),
    y: (y) => round(TOP + (top - f(y)) / (top - bottom) * height),
    back: (at) => Math.min(high, Math.max(low,
      low + (at - LEFT) / width * (high - low)))};
}

// Returns about `count` round numbers in a range, at least two if count >= 4.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].find((n) => n * power >= rough * 0.75) * power;
  const found = [];
  for (let n = Math.ceil(low / size); n * size <= high; n++)
    found.push(n * size);
  return found;
}

// Takes log10 of a range's ends. Returns round numbers if the range is less than
// a decade, else about as many rounded powers of ten as there is room for.
function logTicks(low, high) {
  if (high - low < 1) return ticks(10 ** low, 10 ** high, 4);
  return [...new Set(ticks(low, high, 4).map(
    (y) => +(10 ** y).toPrecision(1)))];
}

function grid(scale) {
  const marks = [make('text', {x: 2, y: HEIGHT - 6}, AXES_IN_SHORT[state.x])];
  for (const y of scale.levels)
    marks.push(make('path', {class: 'grid',
      d: `M${LEFT} ${scale.y(y)}H${WIDTH - RIGHT}`}), make('text', {
      x: LEFT - 5, y: scale.y(y) + 4, 'text-anchor': 'end'}, short(y)));
  const hour = 3600, unit = state.x !== 'time' ? [1, ''] :
    scale.high > 2 * hour ? [hour, ' h'] : scale.high > 120 ? [60, ' min'] :
      [1, ' s'];
  for (const x of ticks(scale.low / unit[0], scale.high / unit[0], 4)) {
    const at = scale.x(x * unit[0]);
    marks.push(make('text', {x: at, y: HEIGHT - 6, 'text-anchor':
      at > WIDTH - 30 ? 'end' : 'middle'}, short(x) + unit[1]));
  }
  return marks;
}

function duration(seconds) {
  if (seconds < 60) return short(seconds) + ' s';
  if (seconds < 3600)
    return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${
    Math.round(seconds % 3600 / 60)} min`;
}
