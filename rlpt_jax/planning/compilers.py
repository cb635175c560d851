"""Compiles what a run computes with the compilers of chips that are not here.

libtpu and JAX's CUDA plugin compile on any machine. So what they say about
memory, collectives and copies is what they would say on the chips; only times
are unknown, and on a GPU, kernels are not tuned.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec, use_abstract_mesh

from rlpt_jax.core import weights
from rlpt_jax.core.layout import Layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.models.cache import Readers
from rlpt_jax.models.config import Decoder
from rlpt_jax.planning import hlo, memory
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.hlo import Array, Instruction
from rlpt_jax.planning.machines import Machine
from rlpt_jax.planning.run import Run
from rlpt_jax.sampling import caches, chunks
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.table import Table
from rlpt_jax.training import learner
from rlpt_jax.training.optimizer import make_optimizer

# Platform -> (module of the compiler, extra of this package that installs it).
PLUGINS = {
  'tpu': ('libtpu', 'plan-tpu'),
  'gpu': ('jax_plugins.xla_cuda12', 'plan-cuda'),
}
# What the compiler asks a GPU: as an H100 or H200 answers, except for memory.
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: {memory} cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "NVIDIA {name}"
"""
# Tuning would run kernels on the chip.
OPTIONS = {'tpu': {}, 'gpu': {'xla_gpu_autotune_level': '0'}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What a compiler says about a program on one chip; sizes are in bytes.

  peak: the most at one time, as the compiler counts it.
  collectives: {kind: (how many run, bytes of their results)}.
  copies: (instruction, array) of each cache that is written anew.
  step: what a step of decoding reads and writes; None for an update.
  """

  arguments: int
  outputs: int
  aliased: int  # Outputs that take the place of arguments.
  temporaries: int
  peak: int
  collectives: dict[str, tuple[int, int]]
  copies: tuple[tuple[str, str], ...] = ()
  step: int | None = None
  lower_seconds: float
  compile_seconds: float

  @property
  def total(self) -> int:
    """The bytes of arguments, outputs and temporaries together."""
    return self.arguments + self.outputs - self.aliased + self.temporaries


def devices(machine: Machine) -> list[jax.Device]:
  """Returns devices of chips that need not be here, to compile for."""
  if machine.platform != 'tpu' and machine.kind not in ('h100', 'h200'):
    raise ValueError(
      f'chips {machine}: expected TPUs, H100s or H200s to compile for.'
    )
  module, extra = PLUGINS[machine.platform]
  if not is_installed(module):
    raise ValueError(
      f'chips {machine}: their compiler, {module}, is not installed: pip '
      f"install 'rlpt_jax[{extra}]'."
    )
  if machine.platform == 'tpu':
    # Without these, libtpu waits for the metadata server of a TPU VM, and
    # refuses to load beside another process that has it: a run, or a plan.
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    with _no_xla_flags():
      topology = topologies.get_topology_desc(
        platform='tpu', topology_name=machine.topology
      )
    return list(topology.devices)
  # Without this, the plugin refuses to load where CUDA is not installed.
  os.environ.setdefault('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '1')
  importlib.import_module(module)  # Registers the platform.
  chip = machine.chip
  topology = topologies.get_topology_desc(
    platform='cuda', topology_name=machine.kind,
    topology=f'{machine.topology}x1',
    target_config=HOPPER.format(
      bandwidth=chip.bandwidth, memory=chip.memory, name=machine.kind.upper()
    ),
  )  # fmt: skip
  return list(topology.devices)


@contextlib.contextmanager
def _no_xla_flags():
  """Hides XLA_FLAGS: libtpu ends the process if there is one it does not know.

  It reads them when it loads or compiles first, and knows fewer than jaxlib.
  """
  flags = os.environ.pop('XLA_FLAGS', None)
  try:
    yield
  finally:
    if flags is not None:
      os.environ['XLA_FLAGS'] = flags


def is_installed(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # Not even what the module is part of.
    return False


def compile_run(run: Run) -> Iterator[tuple[str, Report]]:
  """Compiles the run's update and, if it samples, its chunk of decoding.

  Yields the name and the report of each when it is compiled.
  """
  yield 'update', compile_update(run)
  if run_lib.is_rl(run.config):
    yield 'chunk', compile_chunk(run)


def planned(run: Run, name: str) -> int:
  """Returns the bytes that the arithmetic has for a report of `compile_run`."""
  if name == 'chunk':
    return plan_lib.memory(run.engine, run.sampler).total
  if run.machine.platform == 'gpu':  # As it is compiled.
    run = with_xla_attention(run)
  return sum(memory.of_learner(run.config, run.learner).values())


def compile_update(run: Run) -> Report:
  """Compiles the run's update.

  On a GPU, with XLA's attention: cuDNN's cannot be traced where it is not.
  """
  if run.machine.platform == 'gpu':
    run = with_xla_attention(run)
  decoder = _decoder(run, run_lib.hardware(run.config).layout)
  start = time.perf_counter()
  layout, specs = decoder.layout, decoder_lib.specs(decoder.config)
  optimizer = make_optimizer(run.config.optimizer, specs)
  params = weights.shapes(specs, layout=layout)
  count = _shaped((), jnp.int32, layout.replicated())
  state = learner.State(
    params,
    jax.tree.map(
      lambda x, sharding: _shaped(x.shape, x.dtype, sharding),
      jax.eval_shape(optimizer.init, params),
      learner.shardings(optimizer, params),
    ),
    count, count, count,
  )  # fmt: skip
  update = run.config.make_update(decoder, optimizer)
  with lowering_for(decoder.layout):
    lowered = update.lower(state, *run_lib.batches(run.config, layout))
  options = learner.GPU_OPTIONS if run.machine.platform == 'gpu' else {}
  return _report(run, lowered, start, options=options)


def with_xla_attention(run: Run) -> Run:
  """Returns the run with attention that computes all scores."""
  compute = dataclasses.replace(run.config.compute, attention='xla')
  return dataclasses.replace(
    run, config=dataclasses.replace(run.config, compute=compute)
  )


def compile_chunk(
  run: Run, kernel: Callable[[Instruction, list[Array]], int] | None = None
) -> Report:
  """Compiles the run's chunk of decoding.

  kernel: as of `hlo.step_bytes`.
  """
  decoder, plan = _decoder(run, run.config.hardware.sampler_layout), run.engine
  start = time.perf_counter()

  def cache(rows, length):
    empty = functools.partial(
      caches.empty, decoder, rows, length, plan.dtype(decoder)
    )
    axes = (*caches.HEADS, None, None)
    return jax.tree.map(
      lambda x: _shaped(
        x.shape, x.dtype, decoder.layout.sharding(x.shape, axes[: x.ndim])
      ),
      jax.eval_shape(empty),
    )

  prefixes = cache(plan.num_prompts, plan.prefix_length)
  own = cache(plan.num_blocks, plan.block_size)
  replicated = decoder.layout.replicated()
  slots = jax.tree.map(
    lambda x: _shaped(x.shape, x.dtype, replicated), idle_slots(plan)
  )
  params = published(decoder)
  with lowering_for(decoder.layout):
    lowered = chunks.compiled_for(
      run.machine.platform, plan.dtype(decoder)
    ).lower(decoder, params, prefixes, own, slots, steps=plan.chunk)
  is_cache = _is_cache(decoder, params, (prefixes, own))
  return _report(run, lowered, start, is_cache=is_cache, kernel=kernel)


def lowering_for(layout: Layout):
  """Returns a context that tells Pallas which chips it lowers kernels for.

  Otherwise, jax 0.11 asks the GPU of this machine.
  """
  return use_abstract_mesh(layout.mesh.abstract_mesh)


def idle_slots(plan: Plan) -> chunks.Slots:
  """Returns the arrays that the engine passes to a chunk, with idle slots."""
  readers = Readers(
    np.zeros((plan.num_prompts, plan.group), np.int32),
    np.zeros(plan.slots, np.int32),
  )
  return Table(plan.slots, plan.sizes).slots(
    np.zeros(plan.num_prompts, np.int32), readers,
    blocks_BM=np.zeros((plan.slots, plan.columns), np.int32),
    replay_BT=np.zeros((plan.slots, plan.chunk), np.int32),
  )  # fmt: skip


def _is_cache(decoder: Decoder, params, stored) -> Callable[[Array], bool]:
  """Returns a function that tells caches from weights and logits by shape."""

  def shards(tree):
    return [x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(tree)]

  least = min(math.prod(shape) for shape in shards(stored) if len(shape) == 4)
  of_weights = {tuple(sorted(shape)) for shape in shards(params)}
  vocab = decoder.config.vocab_size
  of_vocab = {vocab, -(-vocab // decoder.layout.mesh.shape['tensor'])}

  def is_cache(array: Array) -> bool:
    if of_vocab & set(array.shape) or tuple(sorted(array.shape)) in of_weights:
      return False
    return array.size >= least  # Larger too: keys that are joined with others.

  return is_cache


def published(decoder: Decoder):
  """Returns the shapes and shardings of the sampler's parameters."""
  specs = decoder_lib.specs(decoder.config)
  shapes = jax.eval_shape(
    functools.partial(publish, decoder), weights.shapes(specs)
  )
  shardings = weights.shardings(specs, decoder.layout)

  def of_layer(name, x):
    if name in decoder_lib.JOINED:
      *_, axes = decoder_lib.JOINED[name]
      sharding = decoder.layout.weight_sharding(x.shape, axes)
      return _shaped(x.shape, x.dtype, sharding)
    whole = shardings['layers'][name]
    spec = PartitionSpec(*whole.spec[1:])
    return _shaped(x.shape, x.dtype, NamedSharding(whole.mesh, spec))

  found = {
    name: _shaped(x.shape, x.dtype, shardings[name])
    for name, x in shapes.items()
    if name != 'layers'
  }
  name = head.name_of_weights(decoder)
  if found[name].ndim == 3:  # In parts: head.split.
    vocab, embed = shardings[name].spec
    sharding = NamedSharding(
      decoder.layout.mesh, PartitionSpec(vocab, None, embed)
    )
    found[name] = _shaped(found[name].shape, found[name].dtype, sharding)
  layers = tuple(
    {name: of_layer(name, x) for name, x in layer.items()}
    for layer in shapes['layers']
  )
  return {**found, 'layers': layers}


def _decoder(run: Run, axes) -> Decoder:
  layout = axes.layout(devices(run.machine))
  # The devices of a GPU's topology may name their platform otherwise.
  layout = dataclasses.replace(layout, platform=run.machine.platform)
  return Decoder(run.model, run.config.compute, layout)


def _shaped(shape, dtype, sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _report(
  run, lowered, start, *, options=None, is_cache=None, kernel=None
) -> Report:
  middle = time.perf_counter()
  options = OPTIONS[run.machine.platform] | (options or {})
  # JAX cannot load a program from its cache for devices that are not here.
  is_kept = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    compiled, text = _compile(lowered, run.machine.platform, options)
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if 'RESOURCE_EXHAUSTED' not in message:
      raise
    raise ValueError(
      f'chips {run.machine}: the compiler finds no room for the program: '
      f'{message.splitlines()[0]}'
    ) from error
  finally:
    jax.config.update('jax_enable_compilation_cache', is_kept)
  end = time.perf_counter()
  found, program = compiled.memory_analysis(), hlo.parse(text)
  copies, step = (), None
  if is_cache:
    copies = tuple(
      (name, str(array)) for name, array in hlo.copies(program, is_cache)
    )
    step = hlo.step_bytes(program, program.decode_loop(), kernel)
  return Report(
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes,
    aliased=found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    peak=found.peak_memory_in_bytes,
    collectives=hlo.collectives(program), copies=copies, step=step,
    lower_seconds=middle - start, compile_seconds=end - middle,
  )  # fmt: skip


def _compile(lowered, platform: str, options: dict[str, Any]):
  """Returns the compiled program and the text of its HLO.

  libtpu writes the text into a folder. JAX's `as_text` does not know all of its
  instructions, such as those of a v5p's SparseCores.
  """
  if platform == 'gpu':
    compiled = lowered.compile(compiler_options=options)
    return compiled, compiled.as_text()
  with tempfile.TemporaryDirectory() as folder, _no_xla_flags():
    compiled = lowered.compile(
      compiler_options=options | {
        'xla_dump_to': folder, 'xla_dump_hlo_as_text': True,
        'xla_dump_hlo_pipeline_re': '^$',
      }
    )  # fmt: skip
    (path,) = pathlib.Path(folder).glob('*.after_optimizations.txt')
    return compiled, path.read_text()
