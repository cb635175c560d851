"""Fits curves to runs' held-out rewards, and forecasts their ends."""

import dataclasses
import io
import json as json_lib
import math
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rlpt_jax.analysis import forecast as forecasts
from rlpt_jax.analysis import forecast_plots, scaling
from rlpt_jax.analysis.forecast import Candidate, Forecast, Points
from rlpt_jax.core import output_files, settings
from rlpt_jax.rollout import held_out_files
from rlpt_jax.runs import logs

# How a picture begins, by the end of its name.
PICTURES = {'.png': b'\x89PNG', '.svg': b'<?xml'}
# Settings that may differ between seeds of one experiment.
OWN = ('num_steps', 'hardware', 'saving', 'rollouts')


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `fit`, checked."""

  against: str
  share: float
  ahead: float
  discard: float
  most: float

  def __post_init__(self):
    for name, is_right, expected in (
      ('share', 0 < self.share < 1, 'between 0 and 1'),
      ('ahead', 0 < self.ahead < math.inf, 'above 0'),
      ('discard', 0 <= self.discard < 1, 'from 0 to below 1'),
      ('most', math.isfinite(self.most), 'that a reward may reach'),
    ):
      if not is_right:
        raise ValueError(
          f'--{name} {getattr(self, name):g}: expected a number {expected}.'
        )


def fit(
  runs: tuple[pathlib.Path, ...],
  *,
  against: Literal['flops', 'hours', 'steps'] = 'flops',
  share: float = 0.5,
  ahead: float = 2.0,
  discard: float = 0.0,
  most: float = 1.0,
  out: pathlib.Path | None = None,
  json: bool = False,
):
  """Fits curves to runs' held-out rewards, and forecasts their ends.

  The end of each run is forecast from its first half and compared with what was
  measured, so that you know how far to trust a forecast beyond the end. The
  curves are ScaleRL's sigmoid, RLPT's stretched exponential and a power law;
  the one that predicts best makes the forecast. All intervals are 90%
  intervals; docs/scaling.md says what is in them. Runs whose settings differ
  only in seeds are also fitted together.

  Args:
    runs: Folders of train_rl runs that try held-out examples.
    against: What compute is measured in: the operations that the run has
      counted, its hours, or its steps.
    share: The end is forecast from this share of the run's compute.
    ahead: Also forecasts this many times the run's compute.
    discard: Leaves out measurements in this first share of the compute, except
      for the one before the first step. ScaleRL leaves out about an epoch.
    most: The largest reward that is possible.
    out: A picture of the forecasts to write, .png or .svg.
    json: Prints JSON, with all numbers.
  """
  options = Options(against, share, ahead, discard, most)
  if not runs:
    raise ValueError('RUN: expected the folders of one or more runs.')
  if out:
    if out.suffix not in PICTURES:
      raise ValueError(f'--out {out}: expected a name in .png or .svg.')
    output_files.check(out, PICTURES[out.suffix])
  names = dict(zip(runs, logs.distinct_names(runs), strict=True))
  found, records, drawn = {}, [], []
  for workdir, name in names.items():
    try:
      found[workdir] = read(workdir, options)
      record, forecast = describe(name, found[workdir], options)
      drawn += [(name, forecast)] if forecast else []
    except ValueError as error:
      found.pop(workdir, None)
      record = {'run': name, 'refused': str(error)}
    records.append(record)
  if not found:
    reasons = (f'{record["run"]}: {record["refused"]}' for record in records)
    raise ValueError(' '.join(reasons))
  for group in seeds(list(found)):
    record = {'runs': [names[workdir] for workdir in group]}
    together = [found[workdir] for workdir in group]
    records.append(record | {'whole': whole(together, options)})
  if json:
    print(json_lib.dumps(records, indent=2, allow_nan=False))
  else:
    print('\n\n'.join('\n'.join(lines(x, options)) for x in records))
  if out:
    if not drawn:
      raise ValueError(f'--out {out}: no run has a forecast to draw.')
    picture = io.BytesIO()
    _, _, unit = forecasts.AXES[against]
    forecast_plots.forecasts(drawn, unit, picture, out.suffix)
    output_files.replace(out, [picture.getvalue()])


def read(workdir: pathlib.Path, options: Options) -> Points:
  """Returns a run's measurements; raises if no curve can be fitted to them."""
  found = forecasts.points(
    logs.read_columns(workdir), options.against, held_out_files.read(workdir)
  )
  found = forecasts.without_beginning(found, options.discard)
  forecasts.check(found, most=options.most)
  return found


def describe(
  name: str, found: Points, options: Options
) -> tuple[dict[str, Any], Forecast | None]:
  """Returns a run's record, and the forecast of its end, if there is one."""
  record, made = {'run': name, 'against': options.against}, None
  try:
    made = forecasts.forecast(found, share=options.share, most=options.most)
    record['forecast'] = {
      'from': options.share,
      'measurements': len(made.seen.x),
      'until': made.seen.x[-1],
      'at': made.end,
      'predicted': made.predicted,
      'interval': made.interval,
      'measured': made.measured,
      'error': made.error,
      'covered': made.is_covered,
      'wide': made.is_wide,
      'said': forecasts.sentence(made, options.share, options.against),
      'curves': [_candidate(x, made.end) for x in made.candidates],
    }
  except ValueError as error:
    record['forecast'] = {'refused': str(error)}
  return record | {'whole': whole([found], options)}, made


def whole(runs: Sequence[Points], options: Options) -> dict[str, Any]:
  """Returns the record of a fit to all measurements of runs together."""
  order = np.argsort(np.concatenate([run.x for run in runs]), kind='stable')
  x = np.concatenate([run.x for run in runs])[order]
  y = np.concatenate([run.y for run in runs])[order]
  most, at = options.most, options.ahead * float(x[-1])
  fits = forecasts.candidates(Points(x, y), most=most)
  record = {
    'measurements': len(x),
    'end': x[-1],
    'at': at,
    'predicted': float(fits[0].likelihood.fit(at)),
    'interval': forecasts.interval(fits, at),
    'curves': [_candidate(each, at) for each in fits],
    'bootstrap': None,
    'scalerl': None,
  }
  drawn = {
    'questions': all(run.rewards_NQ is not None for run in runs),
    'seeds': len(runs) > 1,
  }
  if any(drawn.values()):
    (sigmoid,) = (x for x in fits if x.curve is scaling.SIGMOID)
    rng = np.random.default_rng(0)
    record['bootstrap'] = {
      'drawn': [name for name, is_drawn in drawn.items() if is_drawn],
      **forecasts.bootstrap(runs, sigmoid.likelihood, at, rng, most=most),
    }
  if x[0] == 0:
    start = float(y[x == 0].mean())
    record['scalerl'] = scaling.fit_grid(x, y, start, most=most).parameters
  return record


def _candidate(candidate: Candidate, at: float) -> dict[str, Any]:
  likelihood, fit = candidate.likelihood, candidate.likelihood.fit
  return {
    'curve': fit.curve.name,
    'formula': fit.curve.formula,
    'miss': candidate.miss,
    'noise': fit.noise,
    'parameters': fit.parameters,
    'intervals': likelihood.intervals,
    'predicted': float(fit(at)),
    'interval': likelihood.prediction(at),
  }


def seeds(workdirs: Sequence[pathlib.Path]) -> list[list[pathlib.Path]]:
  """Returns the groups of runs whose settings differ only in their seeds."""
  groups = {}
  for workdir in workdirs:
    fixed = [
      (path, str(value))
      for path, value in settings.flat(logs.read_config(workdir))
      if path.split('.')[-1] != 'seed' and path.split('.')[0] not in OWN
    ]
    if fixed:
      groups.setdefault(tuple(sorted(fixed)), []).append(workdir)
  return [group for group in groups.values() if len(group) > 1]


def lines(record: dict[str, Any], options: Options) -> list[str]:
  """Returns a record as text."""
  if 'refused' in record:
    return [f'{record["run"]}: not fitted: {record["refused"]}']
  if 'runs' in record:
    said = [f'{", ".join(record["runs"])}: seeds of one experiment']
  else:
    made = record['forecast']
    said = [
      record['run'],
      *(
        [f'No forecast of the end: {made["refused"]}']
        if 'refused' in made
        else [made['said'], *_table(made['curves'], options)]
      ),
    ]
  return [*said, *_whole_lines(record['whole'], options)]


def _whole_lines(record: dict[str, Any], options: Options) -> list[str]:
  at, end = (
    forecasts.amount(record[name], options.against) for name in ('at', 'end')
  )
  (sigmoid,) = (x for x in record['curves'] if x['curve'] == 'sigmoid')
  drawn = record['bootstrap'] or {}
  what = ' and '.join(drawn.get('drawn', ()))
  rows = [('', 'fitted', 'interval', what and f'with other {what}')]
  for name, value in sigmoid['parameters'].items():
    intervals = sigmoid['intervals'].get(name), drawn.get(name)
    rows.append((name, f'{value:.4g}', *map(_interval, intervals)))
  said = [
    f'From all {record["measurements"]} measurements (up to {end}), the reward '
    f'at {at} is predicted to be {record["predicted"]:.3f}, with a 90% '
    f'interval of {_interval(record["interval"])} '
    f'({record["curves"][0]["curve"]}).',
    *_table(record['curves'], options),
    f'The sigmoid {sigmoid["formula"]}, with noise of {sigmoid["noise"]:.3f}:',
    *(f'  {a:4}  {b:>9}   {c:22}  {d}'.rstrip() for a, b, c, d in rows),
  ]
  if not drawn:
    said.append(
      '  With other questions: unknown; held_out/ lacks their single rewards.'
    )
  if record['scalerl']:
    values = [f'{name} {x:.4g}' for name, x in record['scalerl'].items()]
    said.append(f"  ScaleRL's grid, with R0 as measured: {', '.join(values)}")
  return said


def _table(curves: Sequence[dict[str, Any]], options: Options) -> list[str]:
  rows = [('', 'misses by', 'A', 'interval', 'predicted', 'interval')]
  for each in curves:
    low, high = each['intervals']['A']
    limits = f'{low:.3g} or more' if high >= options.most else (low, high)
    rows.append(
      (
        each['curve'], f'{each["miss"]:.3f}', f'{each["parameters"]["A"]:.3f}',
        limits if isinstance(limits, str) else _interval(limits),
        f'{each["predicted"]:.3f}', _interval(each['interval']),
      )
    )  # fmt: skip
  return [
    f'  {a:22}{b:>9}{c:>8}  {d:17}{e:>9}  {f}'.rstrip()
    for a, b, c, d, e, f in rows
  ]


def _interval(ends: Sequence[float] | None) -> str:
  return f'{ends[0]:.3g} to {ends[1]:.3g}' if ends else ''
