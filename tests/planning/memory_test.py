"""Bytes in plain arithmetic, against arrays, compilers and a GPU's count."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import pytest

from rlpt_jax.algorithms import losses, policy
from rlpt_jax.algorithms.kl import InLoss
from rlpt_jax.core import weights
from rlpt_jax.core.layout import Axes, make_layout
from rlpt_jax.core.types import Batch
from rlpt_jax.inference.judges import Answering, Weighing
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import scoring, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.planning import memory
from rlpt_jax.planning.run import Role
from rlpt_jax.rewards.judge import ByAnswer, ByProbability
from rlpt_jax.rollout import schedules
from rlpt_jax.rollout.held_out import HeldOut
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.training.learner import State, make_state, make_update
from rlpt_jax.training.optimizer import AdamW, make_optimizer
from tests.planning import runs

GIB = 2**30


@pytest.mark.parametrize('sizes', [{'fsdp': 4, 'tensor': 2}, {'data': 8}])
def test_the_state_is_what_arrays_take(sizes):
  layout = make_layout(**{'fsdp': 1} | sizes)
  config, model = runs.rl(), zoo.get('tiny_qwen3')
  specs = decoder_lib.specs(model)
  params = weights.init(specs, jax.random.key(0), layout=layout)
  state = make_state(params, make_optimizer(config.optimizer, specs))
  first = jax.devices()[0]
  found = sum(
    shard.data.nbytes
    for x in jax.tree.leaves((state.params, state.optimizer))
    for shard in x.addressable_shards
    if shard.device == first
  )
  parts = memory.of_learner(config, Decoder(model, config.compute, layout))
  # The optimizer counts its steps.
  assert 0 <= found - (parts['weights'] + parts['moments']) <= 16


def test_a_microbatch_by_hand():
  # Qwen3 with 2 layers of width 64, 4 heads and 2 kv heads of 32, an mlp of
  # 128, 259 tokens and a tied head. 4 groups of 4 rows of 16 tokens, and 4
  # prompts of 32.
  parts = memory.of_run(runs.run())
  weights_ = 259 * 64 + 64  # The embedding and the last norm.
  weights_ += 2 * (64 * 128 * 2 + 64 * 64 * 2 + 64 * 128 * 3)
  weights_ += 2 * (2 * 64 + 2 * 32)  # Norms of each layer.
  assert parts['weights'] == 4 * weights_
  assert parts['moments'] == parts['gradients'] == 8 * weights_
  rows, tokens, prompt_tokens = 16, 16 * 16, 4 * 32
  kept = (tokens + prompt_tokens) * 64 + 2 * prompt_tokens * 2 * 2 * 32
  assert parts['activations'] == 2 * 2 * kept
  assert parts['layer'] == 2 * tokens * (3 * 128 + 4 * 4 * 32)
  assert parts['head'] == 12 * 259 * 64 + 8 * rows * 16 * 259
  # All 8 groups: 14 bytes of a token in the batch, as many in its microbatches,
  # 9 of what an update returns; 8 of a token of a prompt, twice.
  assert parts['batch'] == 37 * 8 * 4 * 16 + 16 * 8 * 32
  assert 'scores' not in parts


def test_the_sampler_is_what_its_plan_says():
  run = runs.run(chips='h100:8')
  found = plan_lib.memory(run.engine, run.sampler)
  parts = memory.of_run(run)
  assert parts['sampler'] + parts['caches'] + parts['logits'] == found.total


def test_one_microbatch_has_no_sum_of_gradients():
  config = runs.rl(hardware=runs.hardware(num_microbatches=1))
  parts = memory.of_run(runs.run(config))
  assert parts['gradients'] == parts['weights']


def test_rows_of_text():
  # 4 rows of 64 tokens at once, without prompts.
  parts = memory.of_run(runs.run(runs.sft()))
  assert parts['batch'] == 37 * 16 * 64
  assert 'sampler' not in parts
  one = memory.of_run(runs.run(runs.sft(num_microbatches=16)))
  assert parts['layer'] == 4 * one['layer']


def test_prompts_in_every_row():
  shared = memory.of_run(runs.run())
  config = runs.rl(score=scoring.in_rows)
  parts = memory.of_run(runs.run(config))
  # 16 rows of 32 + 16 tokens.
  assert parts['activations'] == 2 * 2 * 16 * 48 * 64
  assert parts['layer'] == 3 * shared['layer']


def test_what_else_is_on_the_chips():
  plain = memory.of_run(runs.run())
  kl = memory.of_run(runs.run(runs.rl(kl=InLoss(weight=0.1))))
  assert kl == plain | {'reference': plain['weights']}
  judge = functools.partial(Answering, model='random:tiny_llama', slots=3)
  asked = memory.of_run(runs.run(runs.rl(reward=ByAnswer(judge()))))
  assert asked.pop('judge') > 2 * weights.count(
    decoder_lib.specs(zoo.get('tiny_llama'))
  )
  assert asked == plain
  weighing = Weighing(model='random:tiny_llama')
  weighed = memory.of_run(runs.run(runs.rl(reward=ByProbability(weighing))))
  assert weighed['judge'] > 0
  # It is not here, and cannot be counted.
  away = judge()
  away.model = 'models/Away'
  assert memory.of_run(runs.run(runs.rl(reward=ByAnswer(away)))) == plain


def test_more_chips_hold_less_each():
  sizes = [
    memory.of_run(runs.run(chips=chips)) for chips in ('h100:1', 'h100:4')
  ]
  for name in ('weights', 'moments', 'activations', 'batch', 'caches'):
    assert sizes[1][name] < 0.3 * sizes[0][name], name


def test_remat_keeps_less():
  kept = []
  for remat in ('none', 'dots', 'layer'):
    config = runs.rl(compute=Compute(remat=remat))
    kept.append(memory.of_run(runs.run(config))['activations'])
  assert kept[0] > 1.2 * kept[1] > 3 * kept[2]


# benchmarks/README.md: the learner alone, 8 prompts of 1,024 tokens with 8
# completions of 512, a head chunk of 512, the GiB of an H200.
@pytest.mark.parametrize(
  ('model', 'remat', 'parts', 'measured'),
  [
    ('qwen3_06b', 'layer', 2, 34),
    ('qwen3_06b', 'dots', 1, 85),
    ('qwen3_17b', 'dots', 2, 81),
  ],
)
def test_what_a_gpu_took(model, remat, parts, measured):
  compute = Compute(remat=remat, head_chunk=512)
  layout = Axes().abstract(1, 'gpu')
  decoder = Decoder(zoo.get(model), compute, layout)
  role = Role(8, 8, 1024, 512, parts)
  config = types.SimpleNamespace(shares_prompts=True)
  found = sum(memory._of_microbatch(config, decoder, role).values())
  gradients = 2 if parts > 1 else 1
  found += (12 + 4 * gradients) * memory.num_weights(decoder)
  assert found / GIB == pytest.approx(measured, rel=0.06)


@pytest.mark.slow
def test_scores_on_a_cpu():
  """A layer of attention without a kernel, against XLA's own count."""
  P, G, S, T = 2, 4, 128, 256
  layout = make_layout(devices=jax.devices()[:1])
  compute = Compute(dtype='float32', remat='layer')
  decoder = Decoder(zoo.get('tiny_qwen3'), compute, layout)
  specs = decoder_lib.specs(decoder.config)
  params = weights.shapes(specs, layout=layout)
  optimizer = make_optimizer(AdamW(learning_rate=1e-3), specs)
  shape = jax.ShapeDtypeStruct
  count, rows = shape((), jnp.int32), shape((P, G, T), jnp.int32)
  real, mask = (shape((P, G, T), dtype) for dtype in (jnp.float32, bool))
  state = State(
    params, jax.eval_shape(optimizer.init, params), count, count, count
  )
  batch = Batch(
    prompts_PS=shape((P, S), jnp.int32),
    prompt_mask_PS=shape((P, S), jnp.int32), tokens_PGT=rows,
    present_PGT=mask, mask_PGT=mask, behavior_PGT=real,
    advantages_PG=shape((P, G), jnp.float32), weights_PGT=real,
  )  # fmt: skip
  score = functools.partial(scoring.in_groups, decoder, temperature=1.0)
  update = make_update(
    policy.make_loss(score, losses.ppo), optimizer, policy.measure
  )
  found = update.lower(state, batch).compile().memory_analysis()
  config = types.SimpleNamespace(shares_prompts=True)
  parts = memory._of_microbatch(config, decoder, Role(P, G, S, T, 1))
  parts['gradients'] = 4 * memory.num_weights(decoder)
  assert parts['scores'] > 0.5 * sum(parts.values())
  expected = sum(parts.values())
  assert found.temp_size_in_bytes == pytest.approx(expected, rel=0.25)


def test_kernels_hold_no_scores():
  for chips, attention, holds in (
    ('cpu:1', 'auto', True), ('h100:1', 'auto', False),
    ('tpu:v5e:1x1', 'auto', False), ('h100:1', 'xla', True),
    ('h100:1', 'cudnn', False),
  ):  # fmt: skip
    config = runs.rl(
      sampling=Sampling(samples=4, max_new_tokens=256), max_prompt_tokens=256,
      compute=Compute(attention=attention),
    )  # fmt: skip
    parts = memory.of_run(runs.run(config, 'qwen3_06b', chips))
    assert ('scores' in parts) == holds, (chips, attention)
  # cuDNN's kernels compute in half precision only.
  config = dataclasses.replace(config, compute=Compute(dtype='float32'))
  assert 'scores' in memory.of_run(runs.run(config, 'qwen3_06b', 'h100:1'))


def test_remat_does_nothing_on_a_cpu_that_unrolls():
  def kept(**compute):
    config = runs.rl(compute=Compute(dtype='float32', **compute))
    return memory.of_run(runs.run(config, chips='cpu:1'))['activations']

  assert kept(remat='layer', unroll=True) == kept(remat='none')
  assert kept(remat='layer') < kept(remat='none')


def test_fits_leaves_room():
  run = runs.run(model='qwen3_4b', chips='h200:1')
  parts = memory.of_run(run)
  assert memory.fits(run) == (sum(parts.values()) <= 0.9 * 141e9)
  assert not memory.fits(dataclasses.replace(run, model=zoo.get('qwen3_8b')))


def test_separate_chips_have_sums_of_their_own():
  def sides(**changes):
    config = runs.rl(hardware=runs.apart(), kl=InLoss(weight=0.1), **changes)
    return memory.of_sides(runs.run(config, 'qwen3_06b', 'h100:8'))

  found = sides()
  # The same on the four chips of each side alone.
  four = runs.hardware(layout=Axes(devices=4), sampler_layout=Axes(devices=4))
  learner = runs.run(
    runs.rl(hardware=four, kl=InLoss(weight=0.1)), 'qwen3_06b', 'h100:4'
  )
  expected = memory.of_run(learner)
  assert found['learner'] == {
    name: size
    for name, size in expected.items()
    if name not in ('sampler', 'caches', 'logits')
  }
  sampler = Axes(data=2, fsdp=1, tensor=2)
  run = runs.run(
    runs.rl(hardware=runs.hardware(sampler_layout=sampler)),
    'qwen3_06b', 'h100:4',
  )  # fmt: skip
  kept = plan_lib.memory(run.engine, run.sampler)
  assert sum(found['sampler'].values()) == kept.total
  # A judge on all chips is on both sides, one on the first two is on one.
  for axes, has in ((Axes(), (1, 1)), (Axes(devices=2), (1, 0))):
    judge = Weighing(model='random:tiny_llama', layout=axes)
    judged = sides(reward=ByProbability(judge)).values()
    assert tuple('judge' in parts for parts in judged) == has


def test_what_the_learner_of_other_jobs_holds():
  def sides(**changes):
    config = runs.rl(schedule=schedules.Separate(), **changes)
    return memory.of_sides(runs.run(config, 'qwen3_06b', 'h100:4'))

  ahead = runs.rl(schedule=schedules.Pipelined())
  together = memory.of_run(runs.run(ahead, 'qwen3_06b', 'h100:4'))
  found = sides()
  assert found['learner'] | found['sampler'] == together
  assert not {*found['learner']} & {*found['sampler']}
  # It tries held-out examples, and asks judges.
  held_out = HeldOut(data=runs.rl().data)
  judge = ByProbability(Weighing(model='random:tiny_llama'))
  found = sides(held_out=held_out, reward=judge)
  assert {*found['learner']} == {*together, 'judge'}
  assert {*found['sampler']} == {'sampler', 'caches', 'logits'}


def test_the_fullest_chip_decides():
  run = runs.run(runs.rl(hardware=runs.apart()), chips='h100:8')
  totals = [sum(parts.values()) for parts in memory.of_sides(run).values()]
  assert memory.total(run) == max(totals) < sum(totals)
  shared = runs.run(chips='h100:8')
  assert memory.of_sides(shared) == {'all': memory.of_run(shared)}
  assert memory.total(shared) == sum(memory.of_run(shared).values())
