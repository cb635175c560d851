"""FLOPs as the ledger and XLA count them, bytes by hand, times as measured."""

import dataclasses
import functools
import math
import types

import jax
import numpy as np
import pytest

from rlpt_jax.algorithms import losses, policy
from rlpt_jax.algorithms.kl import InLoss
from rlpt_jax.core import weights
from rlpt_jax.core.layout import Axes, make_layout
from rlpt_jax.core.types import Batch
from rlpt_jax.inference.judges import Answering
from rlpt_jax.llm.remote import Endpoint, Remote
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import flops, scoring, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.planning import costs, machines, memory
from rlpt_jax.planning.costs import Cost, Lengths, Shares
from rlpt_jax.rewards.judge import ByAnswer
from rlpt_jax.rollout import schedules
from rlpt_jax.rollout.ledger import Ledger
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.schedules import Pipelined
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.training.optimizer import make_optimizer
from tests.planning import runs
from tests.rollout.ledger_test import judged, role

LENGTHS = Lengths(10, 6)
ALL = Shares(1.0, 1.0)


@pytest.mark.parametrize('kl', [None, InLoss(weight=0.1)])
def test_what_is_needed_is_what_a_ledger_counts(kl):
  config = runs.rl(kl=kl)
  step = costs.of_step(runs.run(config), LENGTHS)
  ledger = Ledger(
    zoo.get('tiny_qwen3'), {}, remat='layer', share_prompt=True,
    has_reference=kl is not None,
  )  # fmt: skip
  # 8 prompts of 10 tokens, each with 4 completions of 6.
  groups = judged(*[(10, [6] * 4)] * 8)
  found = ledger.add([role(groups, [True] * 8)])
  sampling = step['prompts'].needed + step['decoding'].needed
  assert sampling == found['compute/rollout_flops']
  assert step['update'].needed == found['compute/update_flops']
  assert ('reference' in step) == (kl is not None)
  if kl:
    assert step['reference'].needed == found['compute/reference_flops']


def test_an_update_computes_its_padding():
  step = costs.of_step(runs.run(), LENGTHS)
  padded = flops.update(zoo.get('tiny_qwen3'), 32, [16] * 4, remat='layer')
  assert step['update'].computed == 8 * padded
  # The means are half of the longest, by default.
  same = costs.of_step(runs.run(), Lengths(16, 8))
  assert costs.of_step(runs.run(), Lengths()) == same
  assert step['update'].needed < same['update'].needed


@pytest.mark.parametrize(
  ('lengths', 'error'),
  [
    (Lengths(33, None), 'mean_prompt_tokens=33: expected 1 to 32'),
    (Lengths(None, 17), 'mean_new_tokens=17: expected 1 to 16'),
    (Lengths(None, 0), 'mean_new_tokens=0: expected 1 to 16'),
  ],
)
def test_means_are_no_longer_than_the_longest(lengths, error):
  with pytest.raises(ValueError, match=error):
    costs.of_step(runs.run(), lengths)


def test_a_mean_may_be_longer_than_one_role_allows():
  lengths = Lengths(None, 20)
  assert lengths.of(32, 16) == (16, 16)
  assert lengths.of(32, 32) == (16, 20)


def test_rows_of_text_are_one_update():
  step = costs.of_step(runs.run(runs.sft()), Lengths())
  model = zoo.get('tiny_qwen3')
  # 16 rows of 64 tokens, as train_sft counts them: the last predicts nothing.
  exact = 16 * (3 * flops.forward(model, 64) + 4 * flops.head(model) * 63)
  assert list(step) == ['update']
  assert step['update'].needed == pytest.approx(exact, rel=0.02)


def test_a_step_of_decoding_by_hand():
  # One GPU reads what is filled: the bfloat16 layers, the head in three parts,
  # 4 prompts of 10 tokens for 16 slots, and half of 6 own positions.
  run = runs.run()
  memory_ = plan_lib.memory(run.engine, run.sampler)
  layers = 2 * (64 * 128 * 2 + 64 * 64 * 2 + 64 * 128 * 3 + 2 * 64 + 2 * 32)
  position = 2 * 2 * 2 * 32 * 2  # Two layers, keys and values of 2 heads.
  found = costs.step_bytes(run, prompt=10, completion=6, samples=4, busy=1.0)
  expected = (
    2 * layers + 4 * 64 + 6 * 259 * 64 + 4 * 10 * position + 16 * 3 * position
    + memory_.recent + memory_.logits
  )  # fmt: skip
  assert found == pytest.approx(expected)
  # XLA reads 8 prompts of 32 positions, and copies 16 rows of 32.
  old = runs.run(chips='a100:1')
  found = costs.step_bytes(old, prompt=10, completion=6, samples=4, busy=1.0)
  assert old.engine.prefix_length == old.engine.block_size == 32
  assert found == pytest.approx(
    2 * layers + 4 * 64 + 6 * 259 * 64 + (8 * 32 + 3 * 16 * 32) * position
    + memory_.recent + memory_.logits
  )  # fmt: skip


def test_xla_reads_all_slots_however_small_their_cache():
  found = []
  for own_tokens in (None, 64):
    hardware = runs.hardware(own_tokens=own_tokens)
    run = runs.run(runs.rl(hardware=hardware), chips='a100:1')
    found.append(
      costs.step_bytes(run, prompt=10, completion=6, samples=4, busy=1.0)
    )
  assert found[0] == found[1]


WIDE = Axes(fsdp=1, tensor=8)


@pytest.mark.parametrize(
  ('model', 'chips', 'changes', 'is_filled'),
  [
    ('qwen3_06b', 'h200:1', {}, True),
    ('qwen3_06b', 'a100:1', {}, False),
    ('qwen3_06b', 'tpu:v5e:2x2', {}, True),
    ('qwen3_06b', 'tpu:v5e:2x2', {'cache_dtype': 'int8'}, False),
    ('qwen3_06b', 'h200:2', {}, True),
    ('qwen3_06b', 'h200:8', {'hardware': runs.hardware(sampler_layout=WIDE)},
     True),
    # Eight chips have different queries, but the same two heads of keys.
    ('qwen25_3b', 'h200:8', {'hardware': runs.hardware(sampler_layout=WIDE)},
     False),
    ('qwen3_06b', 'h200:1', {'cache_dtype': 'int8'}, False),
    ('qwen3_06b', 'h200:1', {'compute': Compute(attention='xla')}, False),
    # 16 completions of 8 queries are too many.
    ('qwen25_3b', 'h200:1', {'sampling': Sampling(samples=16)}, False),
    ('qwen25_3b', 'h200:1', {'sampling': Sampling(samples=8)}, True),
  ],
)  # fmt: skip
def test_where_only_filled_positions_are_read(model, chips, changes, is_filled):
  run = runs.run(runs.rl(**changes), model, chips)
  options = {'completion': 2, 'samples': 4, 'busy': 1.0}
  short, long = (
    costs.step_bytes(run, prompt=prompt, **options) for prompt in (1, 32)
  )
  assert (short < long) == is_filled


def test_an_untied_embedding_is_not_read():
  run = runs.run(model='tiny_llama', chips='a100:1')
  found = costs.step_bytes(run, prompt=1, completion=1, samples=4, busy=1.0)
  all_of_it = plan_lib.memory(run.engine, run.sampler)
  read = all_of_it.total - 2 * 259 * 64
  assert found == read - all_of_it.column + 2 * all_of_it.own


def test_prompts_by_hand():
  # 8 prompts of 20 tokens, one on each of 4 chips at a time.
  found = costs.of_step(runs.run(chips='h100:4'), Lengths(20, 6))['prompts']
  model = zoo.get('tiny_qwen3')
  assert found.needed == 8 * flops.forward(model, 19)
  assert found.computed == 8 * flops.forward(model, 24)  # A bucket.
  layers = 2 * (64 * 128 * 2 + 64 * 64 * 2 + 64 * 128 * 3 + 2 * 64 + 2 * 32)
  assert found.moved == 8 / 4 * 2 * (layers + 64)


def test_steps_of_decoding():
  # 32 completions of 8 tokens fill 16 slots for 16 steps; the longest has 16.
  run = runs.run(chips='tpu:v5e:1x1')
  a_step = costs.step_bytes(run, prompt=16, completion=8, samples=4, busy=1.0)
  found = costs.of_step(run, Lengths())['decoding'].moved
  assert found == pytest.approx(16 * a_step)
  # With a slot for each, the longest decides.
  config = runs.rl(hardware=runs.hardware(slots=32))
  run = runs.run(config, chips='tpu:v5e:1x1')
  a_step = costs.step_bytes(run, prompt=16, completion=8, samples=4, busy=0.5)
  found = costs.of_step(run, Lengths())['decoding'].moved
  assert found == pytest.approx(16 * a_step)


def test_judges():
  local = Answering(
    model='random:tiny_llama', max_prompt_tokens=64, max_new_tokens=8
  )
  run = runs.run(runs.rl(reward=ByAnswer(local)))
  # 32 answers of 4 tokens to questions of 32.
  expected = 32 * flops.rollout(zoo.get('tiny_llama'), 32, [4])
  assert costs.of_step(run, Lengths())['judge'].needed == expected
  assert costs.asked_elsewhere(run) == 0
  remote = Remote(Endpoint(url='http://127.0.0.1:1/v1', model='judge'))
  run = runs.run(runs.rl(reward=ByAnswer(remote)))
  assert costs.asked_elsewhere(run) == 32
  assert 'judge' not in costs.of_step(run, Lengths())
  assert costs.asked_elsewhere(runs.run(runs.sft())) == 0


def test_the_slowest_limit_decides():
  machine = machines.parse('h100:8')
  # A second of each chip's FLOPs, two of its memory, half of its links.
  cost = Cost(0, 8 * 989e12, 2 * 3350e9, 225e9, chips=8)
  assert cost.seconds(machine, ALL) == (2, 'memory')
  assert cost.seconds(machine, Shares(0.25, 1.0)) == (4, 'compute')
  slow = dataclasses.replace(cost, received=1350e9)
  assert slow.seconds(machine, ALL) == (3, 'links')
  # Between hosts nobody knows.
  assert slow.seconds(machines.parse('h100:16'), ALL) == (2, 'memory')
  seconds, limit = cost.seconds(machines.parse('cpu:1'), ALL)
  assert math.isnan(seconds)
  assert limit == 'unknown'


@pytest.mark.parametrize('share', [0, -0.1, 1.1, math.nan])
def test_shares(share):
  with pytest.raises(ValueError, match=r'--share=.*: expected more than 0'):
    Shares(compute=share)


def test_microbatches_cost_bytes():
  few, many = (
    costs.of_step(
      runs.run(
        runs.rl(hardware=runs.hardware(num_microbatches=number)), chips='h100:8'
      ),
      Lengths(),
    )['update']
    for number in (1, 8)
  )
  assert few.computed == many.computed
  assert few.moved < many.moved
  # Eight times as many gathers of all weights.
  assert many.received == 8 * few.received > 0
  alone = costs.of_step(runs.run(), Lengths())['update']
  assert alone.received == 0


def test_the_head_is_gathered_once_for_a_microbatch():
  run = runs.run(chips='h100:8')
  larger = dataclasses.replace(
    run, model=dataclasses.replace(run.model, vocab_size=2 * 259)
  )
  found, more = (
    costs.of_step(x, Lengths())['update'].received for x in (run, larger)
  )
  # 259 more rows of 64 float32 weights, of which a chip has an eighth; and
  # their gradient, there and back. In 2 microbatches.
  assert more - found == 2 * 3 * 4 * 259 * 64 * 7 / 8


# benchmarks/README.md: tokens a second of 32 prompts x 8, 1,024 + 512 tokens,
# and seconds of an update of 8 prompts x 8, on an H200.
@pytest.mark.parametrize(
  ('model', 'measured'), [('qwen3_06b', 46_690), ('qwen3_17b', 38_873)]
)
def test_how_fast_a_gpu_decoded(model, measured):
  config = runs.rl(
    prompts=32, sampling=Sampling(samples=8, max_new_tokens=512),
    max_prompt_tokens=1024, hardware=runs.hardware(slots=256),
    compute=Compute(),
  )  # fmt: skip
  run = runs.run(config, model, 'h200:1')
  cost = costs.of_step(run, Lengths(1024, 512))['decoding']
  seconds, limit = cost.seconds(run.machine, Shares())
  assert limit == 'memory'
  assert 32 * 8 * 512 / seconds == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
  ('model', 'remat', 'parts', 'measured'),
  [
    ('qwen3_06b', 'layer', 2, 0.587),
    ('qwen3_06b', 'dots', 1, 0.461),
    ('qwen3_17b', 'dots', 2, 0.943),
  ],
)
def test_how_fast_a_gpu_learned(model, remat, parts, measured):
  config = runs.rl(
    prompts=8, sampling=Sampling(samples=8, max_new_tokens=512),
    max_prompt_tokens=1024,
    hardware=runs.hardware(num_microbatches=parts, slots=64),
    compute=Compute(remat=remat, head_chunk=512),
  )  # fmt: skip
  run = runs.run(config, model, 'h200:1')
  cost = costs.of_step(run, Lengths(1024, 512))['update']
  seconds, _ = cost.seconds(run.machine, Shares())
  assert seconds == pytest.approx(measured, rel=0.25)


@pytest.mark.slow
def test_an_update_is_what_xla_counts():
  """XLA also counts what a causal mask leaves out."""
  P, G, S, T = 2, 4, 32, 32
  layout = make_layout(devices=jax.devices()[:1])
  # One by one: XLA counts the body of a loop once.
  compute = Compute(dtype='float32', unroll=True)
  decoder = Decoder(zoo.get('tiny_llama'), compute, layout)
  specs = decoder_lib.specs(decoder.config)
  params = weights.init(specs, jax.random.key(0), layout=layout)
  score = functools.partial(scoring.in_groups, decoder, temperature=1.0)
  loss = policy.make_loss(score, losses.ppo)
  ints, ones = (np.zeros((P, G, T), np.int32), np.ones((P, G, T), np.float32))
  batch = Batch(
    prompts_PS=np.zeros((P, S), np.int32),
    prompt_mask_PS=np.ones((P, S), np.int32), tokens_PGT=ints,
    present_PGT=ones > 0, mask_PGT=ones > 0, behavior_PGT=ones,
    advantages_PG=ones[..., 0], weights_PGT=ones,
  )  # fmt: skip
  optimizer = make_optimizer(runs.rl().optimizer, specs)

  def update(params, state, batch):
    grads = jax.grad(loss, has_aux=True)(params, batch)[0]
    return optimizer.update(grads, state, params)

  compiled = jax.jit(update).lower(params, optimizer.init(params), batch)
  found = compiled.compile().cost_analysis()['flops']
  config = runs.rl(
    prompts=P, sampling=Sampling(samples=G, max_new_tokens=T),
    max_prompt_tokens=S, compute=compute,
  )  # fmt: skip
  run = runs.run(config, 'tiny_llama', 'cpu:1')
  c = decoder.config
  key = 4 * c.num_layers * c.num_heads * c.head_dim
  unseen = 3 * P * key * (S * (S - 1) // 2 + G * T * (T - 1) // 2)
  expected = costs.of_step(run, Lengths())['update'].computed + unseen
  assert 0.95 * expected < found < 1.25 * expected


def test_gathered_bytes_by_hand():
  layers = 2 * (64 * 128 * 2 + 64 * 64 * 2 + 64 * 128 * 3 + 2 * 64 + 2 * 32)
  layout = Axes(fsdp=4).abstract(4, 'gpu')
  decoder = types.SimpleNamespace(
    config=zoo.get('tiny_qwen3'), compute=Compute(), layout=layout
  )
  # bfloat16, and the last norm.
  assert memory.gathered_bytes(decoder) == 2 * (layers + 64)


def test_slots_that_stay_full_wait_for_no_completion():
  def moved(schedule, slots):
    config = runs.rl(hardware=runs.hardware(slots=slots), schedule=schedule)
    return costs.of_step(runs.run(config), LENGTHS)['decoding'].moved

  ahead = Pipelined()
  # 32 rows of 6 tokens: 12 steps of 16 slots, fewer than the longest has, 16.
  assert moved(ahead, 16) < moved(schedules.synchronous, 16)
  # 24 steps of 8 slots.
  assert moved(ahead, 8) == moved(schedules.synchronous, 8)
  # With max_staleness=0 there are no other batches.
  now = Pipelined(max_staleness=0)
  assert moved(now, 16) == moved(schedules.synchronous, 16)


def test_each_side_has_its_own_chips():
  shared = costs.of_step(runs.run(chips='h100:8'), LENGTHS)
  config = runs.rl(hardware=runs.apart(), kl=InLoss(weight=0.1))
  step = costs.of_step(runs.run(config, chips='h100:8'), LENGTHS)
  assert {name: cost.chips for name, cost in step.items()} == {
    'prompts': 4, 'decoding': 4, 'reference': 4, 'update': 4,
  }  # fmt: skip
  machine = machines.parse('h100:8')
  for name in ('prompts', 'update'):
    times = [x[name].times(machine, ALL)['compute'] for x in (shared, step)]
    assert times[1] == pytest.approx(2 * times[0])


def test_an_update_of_several_lengths_has_less_padding():
  # An eighth of the lengths is below an eighth of the longest, and so on:
  # (1 * 1 + 1 * 2 + 2 * 4 + 4 * 8) / 8 = 43 / 8 eighths.
  assert costs._rounded_up(512, 256, 4) == 344
  assert costs._rounded_up(512, 256, 1) == 512
  # From 0 to 128: half are below 64, the others below 128.
  assert costs._rounded_up(512, 64, 4) == 96
  # From 0 to 1,024: half are the longest.
  assert costs._rounded_up(512, 512, 2) == 0.25 * 256 + 0.75 * 512
  found = {}
  for lengths in (1, 4):
    hardware = runs.hardware(lengths=lengths, num_microbatches=4)
    config = runs.rl(
      hardware=hardware, sampling=Sampling(samples=4, max_new_tokens=512)
    )
    found[lengths] = costs.of_step(runs.run(config), costs.Lengths())['update']
  assert found[4].needed == found[1].needed
  assert found[4].needed < found[4].computed < 0.75 * found[1].computed
  assert found[4].moved < found[1].moved
