"""What compilers say of a small run's programs, without their chips.

Slow tests need the compilers: pip install 'rlpt_jax[plan-tpu,plan-cuda]'.
"""

import dataclasses
import functools
import os
import pathlib

import jax
import pytest

from benchmarks import plans
from rlpt_jax.core import weights
from rlpt_jax.core.layout import Axes
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.planning import compilers, machines
from rlpt_jax.planning.hlo import Array
from rlpt_jax.planning.run import Run
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.sampling.publish import publish
from tests.planning import runs

# Weights and caches decide its memory, as they do for a large model.
MODEL = dataclasses.replace(
  zoo.get('tiny_qwen3'), embed_dim=512, mlp_dim=2048, head_dim=128, num_heads=4,
  num_kv_heads=2, vocab_size=4096, num_layers=2,
)  # fmt: skip
CHIPS = {'tpu': 'tpu:v5e:2x2', 'gpu': 'h200:1'}
# What cuBLAS takes for the products of a chunk on a GPU; as much in a large
# run, so the arithmetic leaves it out.
CUBLAS = 2**25


# Experts decide its memory: 16 of them, of which a token has 2.
EXPERTS = dataclasses.replace(
  MODEL, family='qwen3_moe', mlp_dim=512, num_experts=16, experts_per_token=2
)


def _run(chips: str, model=MODEL, tensor: int = 1) -> Run:
  config = runs.rl(
    prompts=4, sampling=Sampling(samples=4, max_new_tokens=128),
    max_prompt_tokens=128, compute=Compute(dtype='bfloat16', remat='layer'),
    hardware=runs.hardware(
      layout=Axes(), sampler_layout=Axes(data=-1, fsdp=1, tensor=tensor),
      num_microbatches=1, slots=64,
    ),
  )  # fmt: skip
  return Run(config, model, machines.parse(chips))


@pytest.mark.slow
def test_an_int8_cache_is_not_copied():
  module, extra = compilers.PLUGINS['gpu']
  if not compilers.is_installed(module):
    pytest.skip(f"needs {module}: pip install 'rlpt_jax[{extra}]'")
  run = _run(CHIPS['gpu'])
  config = dataclasses.replace(run.config, cache_dtype='int8')
  report = compilers.compile_chunk(dataclasses.replace(run, config=config))
  assert not report.copies


@pytest.mark.slow
@pytest.mark.parametrize('name', ['update', 'chunk'])
@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
def test_what_the_compiler_reports(platform, name):
  module, extra = compilers.PLUGINS[platform]
  if not compilers.is_installed(module):
    pytest.skip(f"needs {module}: pip install 'rlpt_jax[{extra}]'")
  run = _run(CHIPS[platform])
  if (platform, name) == ('tpu', 'update'):
    # A small one would have almost all in the 128 MB that are on the chip, and
    # take as long: the layers are a loop.
    run = plans.estimate('sft/sft_qwen3_8b_base', 'v5e_64').run
  compiled = {
    'update': compilers.compile_update, 'chunk': compilers.compile_chunk
  }  # fmt: skip
  report = compiled[name](run)
  planned = compilers.planned(run, name)
  if (platform, name) == ('gpu', 'chunk'):
    planned += CUBLAS
  assert report.total == pytest.approx(planned, rel=0.15), report
  assert not report.copies
  assert bool(report.step) == (name == 'chunk')
  if name == 'update' and platform == 'tpu':
    # Weights are gathered from other chips, and gradients added up.
    assert report.collectives['all-gather'][1] > 0


@pytest.mark.slow
def test_decoding_on_several_gpus_moves_no_keys():
  module, extra = compilers.PLUGINS['gpu']
  if not compilers.is_installed(module):
    pytest.skip(f"needs {module}: pip install 'rlpt_jax[{extra}]'")
  run = _run('h100:8', tensor=2)
  calls = []

  def kernel(call, operands):
    calls.append('attend_to_filled' in call.rest)
    return 0

  report = compilers.compile_chunk(run, kernel)
  planned = compilers.planned(run, 'chunk') + CUBLAS
  assert sum(calls) == MODEL.num_layers
  assert report.total == pytest.approx(planned, rel=0.15), report
  assert not report.copies
  # Nothing is gathered but what the host reads of each slot, which is less than
  # the queries of a layer: 2 heads of 128, in 64 slots.
  assert report.collectives['all-gather'][1] < 64 * 2 * 128 * 2
  assert 'all-to-all' not in report.collectives


@pytest.mark.slow
def test_an_update_of_experts_on_a_gpu_is_not_dense():
  module, extra = compilers.PLUGINS['gpu']
  if not compilers.is_installed(module):
    pytest.skip(f"needs {module}: pip install 'rlpt_jax[{extra}]'")
  run = _run(CHIPS['gpu'], EXPERTS)
  report = compilers.compile_update(run)
  planned = compilers.planned(run, 'update')
  assert report.total == pytest.approx(planned, rel=0.15), report


@pytest.mark.parametrize(('platform', 'chips'), CHIPS.items())
def test_a_missing_compiler_is_named_with_its_extra(
  platform, chips, monkeypatch
):
  monkeypatch.setattr(compilers, 'is_installed', lambda module: False)
  with pytest.raises(ValueError, match=r'pip install .rlpt_jax\[plan-'):
    compilers.devices(machines.parse(chips))


def test_a_program_that_a_chip_has_no_room_for():
  class Lowered:
    def compile(self, **_):
      raise jax.errors.JaxRuntimeError(f'{code}: Ran out of memory.\nDetails')

  code = 'RESOURCE_EXHAUSTED'
  with pytest.raises(ValueError, match=r'h200:1: .* no room .* memory\.$'):
    compilers._report(_run('h200:1'), Lowered(), 0.0)
  code = 'INTERNAL'
  with pytest.raises(jax.errors.JaxRuntimeError):
    compilers._report(_run('h200:1'), Lowered(), 0.0)


def test_libtpu_writes_the_text_and_sees_no_flags(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--a_flag_of_jaxlib')
  compiled = object()

  class Lowered:
    def compile(self, compiler_options):
      assert 'XLA_FLAGS' not in os.environ
      assert compiler_options['an_option'] == 'kept'
      folder = pathlib.Path(compiler_options['xla_dump_to'])
      (folder / 'module_0000.jit_f.after_optimizations.txt').write_text('text')
      (folder / 'module_0000.jit_f.before_optimizations.txt').write_text('old')
      return compiled

  found = compilers._compile(Lowered(), 'tpu', {'an_option': 'kept'})
  assert found == (compiled, 'text')
  assert os.environ['XLA_FLAGS'] == '--a_flag_of_jaxlib'


def test_chips_without_a_compiler():
  for chips in ('cpu:1', 'a100:8'):
    with pytest.raises(ValueError, match='expected'):
      compilers.devices(machines.parse(chips))


def test_installed_modules():
  assert compilers.is_installed('json')
  assert not compilers.is_installed('no_such_package.module')


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])  # A GPU's head has parts.
def test_published_has_the_shapes_that_are_published(platform):
  layout = dataclasses.replace(
    Axes(fsdp=4, tensor=2).layout(), platform=platform
  )
  model = zoo.get('tiny_qwen3')
  decoder = Decoder(model, Compute(dtype='bfloat16'), layout)
  specs = decoder_lib.specs(model)
  params = weights.init(specs, jax.random.key(0), layout=layout)
  found, expected = compilers.published(decoder), publish(decoder, params)
  kind = functools.partial(
    jax.tree.map, lambda x: (x.shape, x.dtype, x.sharding.shard_shape(x.shape))
  )
  assert kind(found) == kind(expected)


def test_caches_are_told_from_weights_and_logits():
  run = _run('h200:1')
  weight = jax.ShapeDtypeStruct(
    (512, 4, 128), 'bfloat16', sharding=run.sampler.layout.replicated()
  )
  cache = jax.ShapeDtypeStruct(
    (4, 2, 128, 128), 'bfloat16', sharding=run.sampler.layout.replicated()
  )
  is_cache = compilers._is_cache(run.sampler, [weight], [cache])
  for shape, expected in (
    ((4, 2, 128, 128), True), ((8, 128, 128), True),
    ((4, 2, 128, 160), True),  # Joined with a chunk's.
    ((4, 2, 128, 32), False), ((4, 128, 512), False), ((64, 4096), False),
  ):  # fmt: skip
    assert is_cache(Array('bf16', shape)) == expected, shape
