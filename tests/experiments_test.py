"""Every gin file of experiments/ is one that its program reads; the paper's
runs trace on every layout, at their real sizes, and fit its chips.
"""

import dataclasses
import functools
import importlib
import pathlib
import re
import typing

import jax
import jax.numpy as jnp
import pytest

from benchmarks import plans
from rlpt_jax import cli
from rlpt_jax.algorithms import policy
from rlpt_jax.core import settings, weights
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Batch
from rlpt_jax.models import attention, moe, zoo
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import Decoder
from rlpt_jax.planning import compilers, machines, memory
from rlpt_jax.planning.run import Run
from rlpt_jax.programs import train_rl, train_sft
from rlpt_jax.rollout import batches as batches_lib
from rlpt_jax.rollout.engine_plan import plan_for
from rlpt_jax.sampling import caches, chunks, plan
from rlpt_jax.training.learner import State, make_update
from rlpt_jax.training.optimizer import make_optimizer

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / 'experiments').rglob('*.gin'))
PARTS = ('layouts', 'models')  # Not runs, but what runs are given.
RUNS = [
  file
  for file in FILES
  if file.parent.name not in PARTS and file.stem != 'settings'
]
GB = 10**9


@dataclasses.dataclass(frozen=True)
class Machine:
  chips: int
  platform: str
  gb: int  # Of a chip.


MACHINES = {
  'v5e_64': Machine(64, 'tpu', 16),
  'v5p_32': Machine(16, 'tpu', 95),
  'h100_8': Machine(8, 'gpu', 80),
  'h200_8_apart': Machine(8, 'gpu', 141),
  'h200_1': Machine(1, 'gpu', 141),
  'cpu': Machine(1, 'cpu', 16),
}
# File in experiments/models -> the same in the zoo.
MODELS = {
  'llama32_3b': 'llama32_3b',
  'qwen25_3b': 'qwen25_3b',
  'qwen3_4b_base': 'qwen3_4b',
  'qwen3_8b_base': 'qwen3_8b',
  'qwen3_30b_a3b_base': 'qwen3_30b_a3b',
  'smollm3_3b_base': 'smollm3_3b',
  'tiny_qwen3': 'tiny_qwen3',
}
ALWAYS_TOO_LARGE = {
  ('qwen3_8b_base', 'h200_1'), ('qwen3_30b_a3b_base', 'h200_1'),
  ('qwen3_30b_a3b_base', 'h100_8'), ('qwen3_30b_a3b_base', 'v5e_64'),
  ('qwen3_30b_a3b_base', 'h200_8_apart'),
  *((model, 'cpu') for model in MODELS if model != 'tiny_qwen3'),
}  # fmt: skip
TOO_LARGE = {
  # Four heads of keys are not split over the eight chips of a sampler.
  'rlpt': ALWAYS_TOO_LARGE
  | {('qwen3_30b_a3b_base', 'v5p_32'), ('smollm3_3b_base', 'v5e_64')},
  'pretrain_zero': ALWAYS_TOO_LARGE,
}
# What the headers say to set behind the layout.
BEHIND = {
  'pretrain_zero': ('train_rl.Hardware.num_microbatches=32',),
  'webscale_rl': ('train_rl.Hardware.num_microbatches=128',),
  'rlvr_after_pretrain_zero': ('train_rl.Hardware.num_microbatches=128',),
  'pretrain_zero_qwen3_30b_a3b_base': (
    'train_rl.Hardware.slots=256',
    'train_rl.Hardware.own_tokens=None',
  ),
  # Four heads of keys are not split over the eight chips of a sampler.
  'pretrain_zero_smollm3_3b_base v5e_64': (
    'train_rl.Hardware.own_tokens=786432',
  ),
}
# Each model, each method and each layout once or more, not all of all.
TRACED = [
  ('rl/rlpt_qwen3_8b_base', 'v5e_64'),
  ('rl/rlpt_qwen3_8b_base', 'v5p_32'),
  ('rl/rlvr_llama32_3b', 'h100_8'),
  ('rl/rlpt_qwen3_4b_base', 'h200_1'),
  ('rl/rlpt_tiny_qwen3', 'cpu'),
  ('rl/webscale_rl_qwen25_3b', 'h100_8'),
  ('rl/pretrain_zero_qwen3_30b_a3b_base', 'v5p_32'),
  ('rl/pretrain_zero_smollm3_3b_base', 'h100_8'),
  ('sft/sft_qwen3_8b_base', 'h100_8'),
  ('sft/sft_qwen3_4b_base', 'v5e_64'),
  ('sft/sft_llama32_3b', 'v5p_32'),
]


@pytest.mark.parametrize('file', RUNS, ids=lambda file: file.name)
def test_gin_files(file, monkeypatch):
  monkeypatch.chdir(ROOT)
  text = file.read_text()
  assert len(text.splitlines()) <= 40
  program, path = re.search(r'# Command: +rlpt (\w+) (\S+)', text).groups()
  assert ROOT / path == file
  assert program in cli.PROGRAMS
  module = importlib.import_module(f'rlpt_jax.programs.{program}')
  kind = typing.get_type_hints(getattr(module, program))['config']
  assert isinstance(cli.read_config(kind, pathlib.Path(path)), kind)


def test_parts_are_known_here():
  for part, known in (('layouts', MACHINES), ('models', MODELS)):
    found = {file.stem for file in FILES if file.parent.name == part}
    assert found == set(known)


@functools.cache
def _config(experiment, machine):
  """(config, name of the model): an experiment with a layout behind it."""
  folder, name = experiment.split('/')
  kind = {'rl': train_rl.Config, 'sft': train_sft.Config}[folder]
  (model,) = (model for model in MODELS if name.endswith(f'_{model}'))
  method = name.removesuffix(f'_{model}')
  more = [f'experiments/layouts/{machine}.gin']
  for key in (method, name, f'{name} {machine}'):
    more += BEHIND.get(key, ())
  file = pathlib.Path(f'experiments/{experiment}.gin')
  if not file.exists():  # No run of its own, but any with the model behind.
    more.append(f'experiments/models/{model}.gin')
    file = pathlib.Path(f'experiments/{folder}/{method}_qwen3_4b_base.gin')
  return cli.read_config(kind, file, tuple(more)), model


def _decoder(config, model, axes, machine) -> Decoder:
  layout = axes.abstract(machine.chips, machine.platform)
  return Decoder(zoo.get(MODELS[model]), config.compute, layout)


def _shape(*shape, dtype=jnp.int32):
  return jax.ShapeDtypeStruct(shape, dtype)


def _updated(config, decoder, loss, measure, *batches, **options):
  """(state before, what an update of it and batches gives)."""
  specs = decoder_lib.specs(decoder.config)
  optimizer = make_optimizer(config.optimizer, specs)
  params = weights.shapes(specs, layout=decoder.layout)
  count = _shape()
  state = State(
    params, jax.eval_shape(optimizer.init, params), count, count, count
  )
  update = make_update(loss, optimizer, measure, **options)
  return state, jax.eval_shape(update, state, *batches)


def _batches(config) -> list[Batch]:
  """Returns a batch for each role of the policy."""
  sizes = config.collector.sizes(config.prompts, config.sampling)
  return [
    _batch(P, sampling.samples, *config.longest)
    for P, sampling in zip(sizes, config.samplings, strict=True)
  ]


def _batch(P, G, S, T) -> Batch:
  row, real, mask = (
    _shape(P, G, T, dtype=dtype) for dtype in (jnp.int32, jnp.float32, bool)
  )
  return Batch(
    prompts_PS=_shape(P, S), prompt_mask_PS=_shape(P, S), tokens_PGT=row,
    present_PGT=mask, mask_PGT=mask,
    behavior_PGT=real, advantages_PG=_shape(P, G, dtype=jnp.float32),
    weights_PGT=real,
  )  # fmt: skip


@pytest.fixture
def picked(monkeypatch):
  """The kernels of attention that were picked; XLA's is traced in their place.

  cuDNN cannot be traced where it is not, splash reads its whole mask for that.
  lowering_test has the real ones.
  """
  names = set()

  def noting(name):
    def kernel(*arguments, layout, packed):
      names.add(name)
      return attention.xla_attention(*arguments, layout=layout, packed=packed)

    return kernel

  monkeypatch.setattr(
    attention, 'KERNELS', {name: noting(name) for name in attention.KERNELS}
  )
  return names


@pytest.mark.parametrize(('experiment', 'layout'), TRACED, ids=str)
def test_an_update_traces_on_its_layout(
  experiment, layout, monkeypatch, picked
):
  monkeypatch.chdir(ROOT)
  (config, model), machine = _config(experiment, layout), MACHINES[layout]
  decoder = _decoder(config, model, _hardware(config).layout, machine)
  if isinstance(config, train_sft.Config):
    rows = config.batch_size, config.data.task.row_tokens
    batch = {'tokens_BT': _shape(*rows), 'segments_BT': _shape(*rows)}
    batch['weights_BT'] = _shape(*rows, dtype=jnp.float32)
    loss = functools.partial(train_sft.loss_of_rows, decoder)
    state, (after, said) = _updated(
      config, decoder, loss, train_sft.measure, batch,
      num_microbatches=config.num_microbatches,
    )  # fmt: skip
  else:
    score = functools.partial(
      config.score, decoder, temperature=config.sampling.temperature
    )
    loss = policy.make_loss(
      score, config.loss, balance=moe.balance_of(decoder.config)
    )
    roles, batches = config.collector.roles, _batches(config)
    state, (after, said) = _updated(
      config, decoder, loss, policy.of_roles(roles), *batches,
      num_microbatches=config.collector.parts(config),
      shorten=batches_lib.shorten(config),
    )  # fmt: skip
  sizes = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
  assert sizes(after) == sizes(state)
  assert said['loss'].shape == ()
  # XLA's attention would hold the scores of all pairs of tokens.
  kernel = {'tpu': 'splash', 'gpu': 'cudnn', 'cpu': 'xla'}
  assert picked == {kernel[machine.platform]}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('experiment', 'layout'), [x for x in TRACED if x[0][:2] == 'rl'], ids=str
)
def test_a_chunk_of_decoding_traces_on_its_layout(
  experiment, layout, monkeypatch
):
  monkeypatch.chdir(ROOT)
  (config, model), machine = _config(experiment, layout), MACHINES[layout]
  decoder = _decoder(config, model, config.hardware.sampler_layout, machine)
  shape = plan.fitted(_plan(config), decoder.layout)
  memory = plan.check(
    dataclasses.replace(shape, memory=machine.gb * GB), decoder
  )
  assert memory.gathered == 0  # Decoding reads every weight at every token.
  specs = decoder_lib.specs(decoder.config)
  params = jax.eval_shape(
    decoder_lib.unstack, weights.shapes(specs, dtype=config.compute.dtype)
  )
  stored = [
    jax.eval_shape(
      functools.partial(
        caches.empty, decoder, rows, length, shape.dtype(decoder)
      )
    )
    for rows, length in (
      (shape.num_prompts, shape.prefix_length),
      (shape.num_blocks, shape.block_size),
    )
  ]  # fmt: skip
  own, report = jax.eval_shape(
    functools.partial(chunks.decode_steps, decoder, steps=shape.chunk),
    params, *stored, compilers.idle_slots(shape),
  )  # fmt: skip
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, stored[1])
  assert report.tokens_BT.shape == (shape.slots, shape.chunk)


def test_the_page_has_the_plans_of_some_experiments():
  page = (ROOT / plans.PAGE).read_text()
  for name in plans.experiments():
    assert page.count(f'{name} ') == len(plans.LAYOUTS), name
  for name, layout in TRACED[:2]:
    assert plans.row(name, plans.estimate(name, layout)) in page


@pytest.mark.slow
def test_the_page_has_the_plans_of_all_experiments():
  page = (ROOT / plans.PAGE).read_text()
  # If this fails, run `python benchmarks/plans.py`.
  assert page.endswith(plans.tables(plans.experiments()))


@pytest.mark.parametrize(
  'model', [x for x in MODELS if ROOT / f'experiments/rl/rlpt_{x}.gin' in RUNS]
)
def test_rlvr_computes_what_rlpt_does(model, monkeypatch):
  monkeypatch.chdir(ROOT)
  experiments = f'rl/rlpt_{model}', f'rl/rlvr_{model}'
  # So the trace of one is that of both.
  assert any(traced in experiments for traced, _ in TRACED)
  found = []
  for experiment in experiments:
    config, _ = _config(experiment, 'v5p_32')
    found.append(settings.describe(config))
    for name in ('data', 'reward'):
      del found[-1][name]
  assert found[0] == found[1]


@pytest.mark.parametrize(
  'model',
  [x for x in MODELS if ROOT / f'experiments/rl/pretrain_zero_{x}.gin' in RUNS],
)
def test_baselines_differ_in_who_chooses(model, monkeypatch):
  monkeypatch.chdir(ROOT)
  found, chosen = [], []
  for method in ('pretrain_zero', 'random_rlpt'):
    file = pathlib.Path(f'experiments/rl/{method}_{model}.gin')
    found.append(settings.describe(cli.read_config(train_rl.Config, file)))
    chosen.append(found[-1]['collector'].pop('choose'))
    # SmolLM3's first spans are random in PretrainZero too.
    found[-1]['collector'].pop('random_steps', None)
  assert chosen == [None, 'masks.random_span']
  assert found[0] == found[1]


@pytest.mark.parametrize(
  ('layout', 'slots'),
  [('v5p_32', 256), ('h100_8', 64), ('h200_8_apart', 384)],
)
def test_scalerl_fits_where_its_header_says(layout, slots, monkeypatch):
  monkeypatch.chdir(ROOT)
  config = cli.read_config(
    train_rl.Config,
    pathlib.Path('experiments/rl/scalerl_qwen3_8b.gin'),
    (
      f'experiments/layouts/{layout}.gin',
      'train_rl.Hardware.num_microbatches=48',
      f'train_rl.Hardware.slots={slots}',
      'sampling.Sampling.max_new_tokens=14417',  # The phrase in bytes.
    ),
  )
  run = Run(config, zoo.get('qwen3_8b'), machines.parse(_macro(layout)))
  assert memory.fits(run)


@pytest.mark.parametrize(
  'experiment',
  ['rl/rlpt', 'rl/rlvr', 'rl/pretrain_zero', 'rl/rlvr_after_pretrain_zero',
   'sft/sft'],
)  # fmt: skip
def test_a_run_may_go_on_on_another_layout(experiment, monkeypatch):
  monkeypatch.chdir(ROOT)
  found = []
  for layout in ('v5e_64', 'v5p_32', 'h100_8'):
    config, _ = _config(f'{experiment}_qwen3_4b_base', layout)
    program = train_sft if experiment == 'sft/sft' else train_rl
    described = settings.describe(config)
    for name in program.MAY_CHANGE:
      del described[name]
    found.append(described)
  assert found[0] == found[1] == found[2]


def _hardware(config):
  """Where a config has its layout: that of train_sft is in no part of it."""
  return getattr(config, 'hardware', config)


def _plan(config):
  return plan_for(config, ByteTokenizer())


def _run(experiment, layout) -> Run:
  config, model = _config(experiment, layout)
  return Run(config, zoo.get(MODELS[model]), machines.parse(_macro(layout)))


def _macro(name, macro='CHIPS', folder='layouts') -> str:
  text = (ROOT / f'experiments/{folder}/{name}.gin').read_text()
  (found,) = re.findall(rf"^{macro} = '(.+)'  #", text, re.M)
  return found


def test_files_name_their_machine_and_shape():
  for name, machine in MACHINES.items():
    found = machines.parse(_macro(name))
    assert (found.chips, found.platform) == (machine.chips, machine.platform)
    assert found.memory == machine.gb * GB
  found = {model: _macro(model, 'SHAPE', 'models') for model in MODELS}
  assert found == MODELS


@pytest.mark.parametrize('method', TOO_LARGE)
def test_what_is_planned_fits_the_chips(method, monkeypatch):
  monkeypatch.chdir(ROOT)
  for layout, machine in MACHINES.items():
    for model in MODELS:
      run = _run(f'rl/{method}_{model}', layout)
      parts = max(
        memory.of_sides(run).values(), key=lambda parts: sum(parts.values())
      )
      # Completions as long as the paper's do not fit a CPU, whose attention has
      # no kernel: this table is of layouts, and that one is for short ones.
      scores = parts.pop('scores', 0) if layout == 'cpu' else 0
      assert (scores > 0) == (layout == 'cpu')
      # Splash needs heads of 64; those of tiny_qwen3 are of 32.
      is_small = model == 'tiny_qwen3' and machine.platform == 'tpu'
      assert ('scores' in parts) == is_small
      total = sum(parts.values()) / GB
      fits = total <= 0.9 * machine.gb  # The rest is XLA's and the runtime's.
      print(f'{layout:8} {model:18} {total:8.1f} {machine.gb:4} {fits}')
      assert fits == ((model, layout) not in TOO_LARGE[method])
      assert memory.fits(run) == (fits and not scores)
