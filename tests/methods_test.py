"""The benchmark of that name: its table of cells, its budgets, its restarts."""

import argparse
import dataclasses
import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from rlpt_jax import cli
from rlpt_jax.core.layout import make_layout
from rlpt_jax.inference import model_files
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import flops, head, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.quickstart import small_models

ROOT = pathlib.Path(__file__).parents[1]
with pytest.MonkeyPatch.context() as patch:
  # Where these modules find each other.
  patch.syspath_prepend(ROOT / 'benchmarks')
  method_cells, method_runs, method_world, methods, small_world = map(
    importlib.import_module,
    ('method_cells', 'method_runs', 'method_world', 'methods', 'small_world'),
  )

BUDGETS = 1e9, 2e9, 4e9  # A step takes a fourth of the first.
TINY = {
  'embed_dim': 16, 'num_layers': 1, 'num_heads': 2, 'num_kv_heads': 2,
  'head_dim': 8, 'mlp_dim': 16,
}  # fmt: skip


# The table.


@pytest.mark.parametrize('cell', method_cells.CELLS, ids=lambda cell: cell.name)
def test_the_settings_of_each_cell_are_those_of_its_program(cell, monkeypatch):
  monkeypatch.chdir(ROOT)
  is_rl = cell.program == method_cells.RL
  program = method_cells.RL if is_rl else method_cells.SFT
  module = importlib.import_module(f'rlpt_jax.programs.{program}')
  lines = [*small_world.SAVED, *([method_runs.LENGTHS] if is_rl else [])]
  for name, settings in ((cell.experiment, cell.settings), (cell.then, ())):
    if name:
      path = small_world.SMALL / f'{name}.gin'
      config = cli.read_config(module.Config, path, (*lines, *settings))
      assert config.saving.every == 1


def test_each_cell_is_compared_with_another():
  names = {cell.name for cell in method_cells.CELLS}
  for cell in method_cells.CELLS:
    assert cell in method_cells.CELLS and cell.family in method_cells.FAMILIES
    if cell.name == 'rlpt':  # It is compared with the start alone.
      assert cell.baseline is None
    else:
      assert cell.baseline in names - {cell.name}


def test_each_cell_has_a_name_and_settings_of_its_own():
  names = [cell.name for cell in method_cells.CELLS]
  assert len({*names}) == len(names) and all(map(str.isidentifier, names))
  what = [(c.program, c.experiment, c.settings, c.then) for c in
          method_cells.CELLS]  # fmt: skip
  assert len({*what}) == len(what)
  assert method_cells.named(['rlvr', 'ntp'])[1].experiment == 'ntp'
  with pytest.raises(ValueError, match=r'^sft, rlhf: no such cell; .*ntp'):
    method_cells.named(['ntp', 'sft', 'rlhf'])


# Budgets.


def trainer(run, costs):
  """A run whose step n costs costs(n), and which keeps 25 checkpoints."""

  def train(steps):
    calls.append(steps)
    total, lines = 0, []
    for n in range(steps):
      total += costs(n)
      lines.append(
        {'compute/total_update_flops': total, 'compute/update_flops': 1}
      )
    shutil.rmtree(run / 'checkpoints', ignore_errors=True)
    for n in range(max(steps - small_world.KEPT, 0), steps):
      (run / 'checkpoints' / str(n + 1)).mkdir(parents=True)
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (run / 'metrics.jsonl').write_text(text)

  calls = []
  return train, calls


@pytest.mark.parametrize(
  'costs',
  [lambda n: 10, lambda n: 10 + n % 3, lambda n: 10 + n // 4],
  ids=['equal', 'different', 'growing'],
)
def test_a_budget_is_met_by_the_first_step_that_spends_it(tmp_path, costs):
  train, calls = trainer(tmp_path, costs)
  for budget in (1000, 2000, 4000):
    step = small_world.train_to(budget, tmp_path, train)
    before = sum(costs(n) for n in range(step - 1))
    assert before < budget <= before + costs(step - 1)
    assert small_world.spent(tmp_path, step) == before + costs(step - 1)
    assert (tmp_path / 'checkpoints' / str(step)).exists()
  assert calls == sorted(calls) and len(calls) < 16


def test_a_run_that_was_stopped_is_trained_on_if_it_had_not_saved(tmp_path):
  train, calls = trainer(tmp_path, lambda n: 10)
  step = small_world.train_to(300, tmp_path, train)
  shutil.rmtree(tmp_path / 'checkpoints')  # The metrics are ahead of it.
  assert small_world.train_to(300, tmp_path, train) == step == 30
  assert calls[-2:] == [30, 30]
  with pytest.raises(SystemExit, match='30: is not there any more'):
    train(100)
    small_world.train_to(300, tmp_path, train)


def test_a_run_that_ends_before_its_budget_says_so(tmp_path):
  train, _ = trainer(tmp_path, lambda n: 10)
  with pytest.raises(SystemExit, match='ends after 12 steps'):
    small_world.train_to(300, tmp_path, lambda steps: train(min(steps, 12)))


def test_half_a_line_is_no_step(tmp_path):
  assert small_world.steps_made(tmp_path) == 0
  text = '{"compute/total_flops": 5}\n{"compute/tot'
  (tmp_path / 'metrics.jsonl').write_text(text)
  assert small_world.totals(tmp_path) == [5]


# Whole cells, of a model that is tiny and knows nothing.


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """The options of commands on a prepared folder."""
  folder = tmp_path_factory.mktemp('methods')
  with pytest.MonkeyPatch.context() as patch:
    tiny = dataclasses.replace(zoo.get(small_models.MODEL), **TINY)
    patch.setattr(zoo, 'get', lambda name: tiny)
    small_models.write_random(folder / 'models' / 'base', seed=0)
  shutil.copytree(folder / 'models' / 'base', folder / 'models' / 'judge')
  options = [
    'prepare', '--workdir', folder, '--results', folder / 'results',
    '--models', folder / 'models', '--texts', 40, '--demonstrations', 40,
    '--questions', 8, '--others', 4, '--held_out', 6, '--rlvr', BUDGETS[0],
    '--cold_start_steps', 6, '--budgets', *BUDGETS,
  ]  # fmt: skip
  parsed = methods.parser().parse_args([*map(str, options)])
  methods.prepare(parsed)
  return parsed


def run_cell(prepared, name, fresh=True, budgets=BUDGETS):
  study = method_runs.Study.read(prepared.workdir.absolute() / '1m')
  study = dataclasses.replace(study, budgets=budgets)
  if fresh:
    shutil.rmtree(study.folder / 'runs' / f'{name}_0', ignore_errors=True)
  (cell,) = method_cells.named([name])
  cell = dataclasses.replace(cell, rlvr_after=False)
  return method_runs.run_cell(study, cell, 0)


def without_clock(found):
  budgets = [
    {key: x for key, x in budget.items() if key != 'seconds'}
    for budget in found['budgets']
  ]
  return {**found, 'budgets': budgets, 'date': None}


@pytest.mark.slow
def test_what_is_prepared(prepared):
  about = json.loads((prepared.results / 'questions.json').read_text())
  assert {name: len(lines) for name, lines in about.items()} == {
    'questions': 8, 'longer': 4, 'noisier': 4, 'harder': 4,
  }  # fmt: skip
  assert {x['difficulty'] for x in about['harder']} == {3}
  tasks = [x['task'] for x in about['questions']]
  assert tasks[1::2] == ['question'] * 4 and {*tasks[::2]} <= {'asr', 'msr'}
  assert all(' ' in x['kind'] for x in about['longer'])
  start = json.loads((prepared.results / '1m' / 'start.json').read_text())
  assert start['cell'] == 'cold_start' and start['after_rlvr'] is None
  (only,) = start['budgets']
  assert only['budget'] == only['flops'] == 0
  assert {k: len(x) for k, x in only['right'].items()} == {
    name: len(lines) for name, lines in about.items()
  }


@pytest.mark.slow
def test_a_folder_of_another_study_is_refused(prepared):
  options = argparse.Namespace(**vars(prepared) | {'texts': 41})
  with pytest.raises(ValueError, match=r'was made with .*40.*41.*--workdir'):
    methods.prepare(options)


@pytest.mark.slow
def test_the_loss_of_texts_is_a_mean_over_their_tokens(prepared):
  folder = prepared.workdir / '1m'
  files = model_files.find(folder / method_runs.COLD_START)
  layout = make_layout()
  decoder = Decoder(files.config, Compute(dtype='float32'), layout)
  params, tokenizer = files.load_params(layout=layout), files.load_tokenizer()
  losses = []
  for line in small_world.lines(folder / 'world' / 'held_out.jsonl'):
    tokens = [*tokenizer.encode(line['text']), tokenizer.eos_ids[0]]
    row_1T = np.zeros((1, 128), np.int32)
    row_1T[0, : len(tokens)] = tokens
    out = decoder_lib.forward(decoder, params, row_1T, row_1T >= 0)
    logits_1TV = head.logits(decoder, params, out.hidden_BTD)
    logprobs_TV = jax.nn.log_softmax(logits_1TV[0])
    losses += [-logprobs_TV[i, x] for i, x in enumerate(tokens[1:])]
  start = json.loads((prepared.results / '1m' / 'start.json').read_text())
  loss = float(np.mean(losses))
  assert start['budgets'][0]['text_loss'] == pytest.approx(loss, abs=2e-5)


@pytest.mark.slow
def test_a_cell_is_the_same_however_often_it_is_stopped(prepared, monkeypatch):
  whole = run_cell(prepared, 'ntp', budgets=BUDGETS[:2])
  for budget, found in zip(BUDGETS, whole['budgets'], strict=False):
    step_cost = found['flops'] / found['steps']
    assert budget <= found['flops'] < budget + 2 * step_cost
    assert found['budget'] == budget
  for i, (command, count) in enumerate(
    # What is made is not converted again, but it is asked again.
    (('convert', 1), ('generate', 1), ('convert', 1), ('generate', 2))
  ):
    stop_at(monkeypatch, command, count)
    with pytest.raises(KeyboardInterrupt):
      run_cell(prepared, 'ntp', fresh=i == 0, budgets=BUDGETS[:2])
    monkeypatch.undo()
  found = run_cell(prepared, 'ntp', fresh=False, budgets=BUDGETS[:2])
  assert without_clock(found) == without_clock(whole)


def stop_at(monkeypatch, command, count):
  """Stops before a call of a command."""
  real, calls = method_runs.rlpt, []

  def rlpt(folder, name, *options):
    calls.append(name)
    if name == command and calls.count(name) == count:
      raise KeyboardInterrupt
    real(folder, name, *options)

  monkeypatch.setattr(method_runs, 'rlpt', rlpt)


@pytest.mark.slow
def test_rounds_of_expert_iteration_meet_the_budget(prepared, monkeypatch):
  monkeypatch.setattr(method_runs.truth, 'is_right', lambda *_: True)
  found = run_cell(prepared, 'expert_iteration', budgets=BUDGETS[1:2])
  (at,) = found['budgets']
  assert BUDGETS[1] <= at['flops'] < 1.2 * BUDGETS[1]
  home = prepared.workdir / '1m' / 'runs' / 'expert_iteration_0'
  answers = small_world.lines(home / 'round_1_answers.jsonl')
  # Half of a round's budget samples; a model that knows nothing never stops.
  model = model_files.find(home / 'round_1_model').config
  cost = flops.rollout(model, 40, [64] * 8) * len(answers) / 8
  assert 0.5 < cost / (BUDGETS[1] / 4) < 1.5
  right = small_world.lines(home / 'round_1_right.jsonl')
  pairs = {(line['prompt'], line['completion']) for line in answers}
  assert {(line['prompt'], line['response']) for line in right} == pairs


# The queue.


@pytest.mark.slow
def test_others_go_on_where_a_cell_fails(prepared, monkeypatch, capsys):
  def start(options, name, seed, cores):
    log = options.workdir / '1m' / 'logs' / f'{name}_{seed}.log'
    code = (
      'print("so sad"); exit(3)'
      if name == 'rlvr'
      else f"""
import pathlib
path = pathlib.Path({str(options.results / '1m' / f'{name}_{seed}.json')!r})
path.write_text('')"""
    )
    with log.open('w') as file:
      return subprocess.Popen([sys.executable, '-c', code], stdout=file), log

  monkeypatch.setattr(methods, 'start', start)
  options = argparse.Namespace(
    **vars(prepared) | {'cells': ['rlvr', 'ntp', 'kl'], 'seeds': 2, 'jobs': 2}
  )
  assert methods.run(options) == 1
  said = capsys.readouterr().err.splitlines()
  assert [line.split(':')[0] for line in said] == [
    'rlvr_0 failed', 'rlvr_1 failed'
  ]  # fmt: skip
  assert 'so sad' in said[0] and said[0].endswith('logs/rlvr_0.log)')
  assert [*methods.missing(options)] == [('rlvr', 0), ('rlvr', 1)]
  methods.show(options)
  assert 'ntp' in (shown := capsys.readouterr().out) and 'seeds 0, 1' in shown


def test_who_stops_the_queue_stops_its_cells():
  code = 'import time; print(1, flush=True); time.sleep(60)'
  process = subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, start_new_session=True
  )
  process.stdout.readline()
  methods.stop([process])
  assert process.returncode == -15


def test_cores_are_shared_fairly():
  shared = methods.shared_cores(2)
  assert len(shared) == 2 and all(shared)
  assert abs(len(shared[0]) - len(shared[1])) <= 1
  (alone,) = methods.shared_cores(1)
  assert {*shared[0], *shared[1]} == {*alone}
  assert method_world.ASKED['questions'] == method_world.DIALS
