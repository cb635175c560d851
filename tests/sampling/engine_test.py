"""The engine: whatever happens around a sample, it is the static sampler's."""

import collections
import dataclasses
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import compilations
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import attention, decode_kernel, head
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.sampling import chunks
from rlpt_jax.sampling.engine import Engine, nan_error
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Interruption, Request, cut, join
from rlpt_jax.sampling.sampler import Sampler
from tests.models import references
from tests.sampling import decode_test
from tests.sampling.decode_test import assert_same, requests, tiny

PLAN = Plan(
  slots=5, group=2, prompts=3, max_prompt_tokens=60, max_new_tokens=64, chunk=4
)
SHARDED = dataclasses.replace(PLAN, slots=8, prompts=8)
MIXED = (
  {'temperature': 0.7, 'max_new_tokens': (3, 40, 17)},
  {'top_k': 20, 'max_new_tokens': 9, 'samples': 2},
  {'top_p': 0.9, 'min_p': 0.01, 'max_new_tokens': (30, 1, 5)},
  {'temperature': 0, 'max_new_tokens': 25, 'samples': 1},
)


def mixed(count=9):
  """Requests of many kinds."""
  rng = np.random.default_rng(7)
  asked = []
  for i in range(count):
    prompt = tuple(
      rng.integers(0, 250, [1, 5, 12, 16, 17, 9, 60][i % 7]).tolist()
    )
    options = {'samples': 3} | MIXED[i % len(MIXED)]
    asked.append(Request(prompt_tokens=prompt, id=f'mixed {i}', **options))
  asked[0] = dataclasses.replace(
    asked[0],
    interruption=Interruption(phrase=(40, 41, 42), after=(5, 9), answer=4),
  )
  return asked


def run(decoder, params, asked, plan=PLAN):
  with Engine(decoder, params, plan) as engine:
    return list(Sampler(engine).run(asked))


def one_by_one(decoder, params, asked):
  """The static sampler, a request at a time."""
  return [decode_test.sample(decoder, params, [one])[0] for one in asked]


@pytest.mark.parametrize('model', ['tiny_llama', 'tiny_qwen3_moe'])
def test_the_engine_is_the_static_sampler(model, one_device):
  decoder, params = tiny(one_device, model)
  asked = mixed()
  found = run(decoder, params, asked)
  assert_same(found, one_by_one(decoder, params, asked))
  assert not found[0][1].is_own.all()


# Of one family: all of them are in decode_test.py, whose sampler it equals.
@pytest.mark.slow
def test_greedy_tokens_are_those_of_transformers(one_device, tmp_path):
  model = references.torch_model('qwen3')
  references.save(model, tmp_path)
  lengths = (11, 4, 1, 7)
  eos = int(references.greedy(model, lengths, max_new_tokens=64)[1, 9])
  expected = references.greedy(model, lengths, max_new_tokens=64, eos=eos)
  prompts, _ = references.ragged_batch(vocab=103, lengths=lengths)
  asked = requests(
    [tuple(row[:n].tolist()) for row, n in zip(prompts, lengths, strict=True)],
    samples=1, max_new_tokens=64, temperature=0, stops=((eos,),),
  )  # fmt: skip
  found = run(*references.load(tmp_path, one_device), asked)
  for (completion,), row in zip(found, expected, strict=True):
    ends = np.flatnonzero(row == eos)
    length = ends[0] + 1 if len(ends) else 64
    np.testing.assert_array_equal(completion.tokens, row[:length])


@pytest.mark.slow
def test_sequences_across_chunks_end_and_interrupt(one_device):
  decoder, params = tiny(one_device)
  free = decode_test.flat(run(decoder, params, requests(max_new_tokens=40)))
  first, fifth, ninth = (free[i].tokens.tolist() for i in (0, 4, 8))
  asked = requests(
    max_new_tokens=60,
    stops=(tuple(first[6:10]), (1, 2, 3, 4, 5)),
    interruption=Interruption(
      phrase=(40, 41, 42), after=(10, 30), answer=6, unless=tuple(fifth[2:6])
    ),
  )
  # Fewer slots than samples: each is taken by several, one after the other.
  found = run(decoder, params, asked)
  assert_same(found, decode_test.sample(decoder, params, asked))
  found = decode_test.flat(found)
  assert found[0].tokens.tolist() == first[:10]
  assert found[0].finish_reason == 'stop'
  assert found[4].is_own.all()
  assert found[4].tokens[:40].tolist() == fifth
  at = int(np.flatnonzero(~found[8].is_own)[0])
  assert found[8].tokens[: at + 3].tolist() == [*ninth[:at], 40, 41, 42]
  assert len(found[8].tokens) == at + 3 + 6


@pytest.mark.parametrize(
  ('model', 'dtype', 'cache_dtype'),
  [
    ('tiny_qwen3', 'float32', None),
    pytest.param('tiny_qwen3_moe', 'bfloat16', None, marks=pytest.mark.slow),
    pytest.param('tiny_llama', 'float32', 'int8', marks=pytest.mark.slow),
  ],
)
def test_neighbours_slots_order_and_restarts_change_no_bit(
  model, dtype, cache_dtype, one_device
):
  decoder, params = tiny(one_device, model, dtype)
  plan = dataclasses.replace(PLAN, cache_dtype=cache_dtype)
  asked = mixed()
  expected = run(decoder, params, asked, plan)
  order = list(range(len(asked)))
  for seed in (1, 2):
    random.Random(seed).shuffle(order)
    shuffled = run(decoder, params, [asked[i] for i in order], plan)
    assert_same(shuffled, [expected[i] for i in order], tolerance=0)
  # Alone, and only the last of its samples, as after a restart.
  for request, group in zip(asked, expected, strict=True):
    if request.samples == 3:
      last = dataclasses.replace(
        request, first_sample=2, samples=1,
        max_new_tokens=request.limits[2], interruption=request.interruption,
      )  # fmt: skip
      alone = run(decoder, params, [last], plan)
      assert_same(alone, [group[2:]], tolerance=0)


@pytest.mark.slow
@pytest.mark.parametrize(
  'plan', [{'slots': 1, 'group': 1}, {'slots': 16, 'chunk': 16, 'prompts': 9}],
  ids=str,
)  # fmt: skip
def test_other_plans_sample_the_same_tokens(plan, one_device):
  decoder, params = tiny(one_device)
  asked = mixed()
  expected = run(decoder, params, asked)
  plan = dataclasses.replace(PLAN, **plan)
  assert_same(run(decoder, params, asked, plan), expected)


def reference(decoder, versions, prefix_params, request, completion):
  """(behavior, policy) log-probabilities of a completion whose tokens were
  sampled by several weights, each of which left its keys and values behind.
  """
  *prompt, last = request.prompt_tokens
  row = np.array([[*prompt, 0]], np.int32)  # A prompt may be one token long.
  mask = np.arange(row.size)[None] < len(prompt)
  prefill, decode = (
    jax.jit(function, static_argnums=0)
    for function in (decoder_lib.prefill, decoder_lib.decode)
  )
  prefix = prefill(decoder, prefix_params, row, mask.astype(np.int32))
  own = cache_lib.empty(
    decoder.config, 1, len(completion.tokens), dtype='float32',
    layout=decoder.layout,
  )  # fmt: skip
  fed = [last, *completion.tokens[:-1]]
  one = np.ones((1, 1), np.int32)
  found = []
  for t, (token, version) in enumerate(
    zip(fed, completion.versions, strict=True)
  ):
    params = versions[version]
    out = decode(decoder, params, token * one, one, (prefix,), own, t)
    own = out.cache
    logits = head.logits(decoder, params, out.hidden_BTD)[0, 0]
    found.append(
      [
        jax.nn.log_softmax(logits / temperature)[completion.tokens[t]]
        for temperature in (request.temperature, 1.0)
      ]
    )
  return np.array(found).T


@pytest.mark.slow
def test_weights_that_are_replaced_in_flight(one_device):
  decoder, params = tiny(one_device)
  versions = [params, tiny(one_device, seed=2)[1], tiny(one_device, seed=3)[1]]
  asked = requests(temperature=0.8, max_new_tokens=(9, 16, 11))
  pieces, prefill_version = {}, {}
  with Engine(decoder, params, PLAN) as engine:
    for request in asked:
      engine.submit(request)
    steps = 0
    while not engine.is_idle:
      version = engine.version
      for ticket, sample, piece in engine.step():
        prefill_version.setdefault(ticket, version)
        pieces.setdefault((ticket, sample), []).append(piece)
        assert (piece.versions == version).all()
      steps += 1
      if steps in (2, 5):
        engine.publish(versions[engine.version + 1])
  mixtures = set()
  for (ticket, _), parts in pieces.items():
    completion, request = join(parts), asked[ticket]
    mixtures.add(tuple(np.unique(completion.versions).tolist()))
    assert completion.prompt_version == prefill_version[ticket]
    behavior, policy = reference(
      decoder, versions, versions[prefill_version[ticket]], request, completion
    )
    np.testing.assert_allclose(completion.logprobs, behavior, atol=1e-5)
    np.testing.assert_allclose(completion.policy_logprobs, policy, atol=1e-5)
  assert {(0, 1), (2,)} <= mixtures
  assert max(map(len, mixtures)) >= 2


def test_a_published_update_cannot_touch_what_was_published(one_device):
  decoder, params = tiny(one_device)
  asked = requests()
  expected = run(decoder, params, asked)
  mine = jax.tree.map(jnp.copy, params)
  with Engine(decoder, mine, PLAN) as engine:
    # The learner's next update donates its parameters.
    jax.tree.map(lambda x: x.delete(), mine)
    assert_same(list(Sampler(engine).run(asked)), expected, tolerance=0)


def test_a_long_answer_holds_nobody_up(one_device):
  decoder, params = tiny(one_device)
  asked = [
    *requests(decode_test.PROMPTS[:1], samples=1, max_new_tokens=64),
    *requests(decode_test.PROMPTS[1:], samples=2, max_new_tokens=8),
  ]
  with Engine(decoder, params, dataclasses.replace(PLAN, slots=2)) as engine:
    tickets = [engine.submit(request) for request in asked]
    ended = []
    while not engine.is_idle:
      ended += [(t, i) for t, i, piece in engine.step() if piece.finish_reason]
    assert ended[-1] == (tickets[0], 0)
    # Six short ones of two chunks, one after the other beside the long one.
    assert engine.counts['steps'] == 64
    assert sorted(ended) == [
      (0, 0), *((t, i) for t in tickets[1:] for i in range(2))
    ]  # fmt: skip
  # And `run` gives them in order all the same.
  found = run(decoder, params, asked)
  assert [len(group[0].tokens) for group in found] == [64, 8, 8, 8]


def test_run_takes_requests_as_it_needs_them(one_device):
  decoder, params = tiny(one_device)
  taken = []

  def source():
    for request in mixed(12):
      taken.append(request.id)
      yield request

  with Engine(decoder, params, PLAN) as engine:
    results = Sampler(engine).run(source())
    next(results)
    assert len(taken) < 9
    assert len(list(results)) == 11
    assert engine.is_idle
    assert engine.running == engine.waiting == 0


def test_an_interrupted_step_ends_the_engine(one_device, monkeypatch):
  decoder, params = tiny(one_device)
  with Engine(decoder, params, PLAN) as engine:
    engine.submit(requests()[0])

    def interrupt(*_):
      raise KeyboardInterrupt

    with monkeypatch.context() as patched:
      patched.setattr(chunks, 'prefill_into', interrupt)
      with pytest.raises(KeyboardInterrupt):
        engine.step()
    with pytest.raises(RuntimeError, match='create a new one'):
      engine.step()


def test_run_leaves_nothing_behind(one_device):
  decoder, params = tiny(one_device)
  expected = run(decoder, params, mixed())
  with Engine(decoder, params, PLAN) as engine:
    results = Sampler(engine).run(mixed())
    next(results)
    results.close()
    assert engine.is_idle
    refused = dataclasses.replace(mixed()[0], max_new_tokens=65)
    with pytest.raises(ValueError, match='65 new tokens'):
      list(Sampler(engine).run([*mixed(3), refused]))
    assert engine.is_idle
    assert_same(list(Sampler(engine).run(mixed())), expected, tolerance=0)
    with pytest.raises(ValueError, match='sample 7 of prompt 0'):
      engine.cancel(engine.submit(requests()[0]), 7)


def test_cancelled_samples_leave_their_slots(one_device):
  decoder, params = tiny(one_device)
  asked = requests(samples=4, max_new_tokens=20)
  expected = run(decoder, params, asked)
  with Engine(decoder, params, PLAN) as engine:
    tickets = [engine.submit(request) for request in asked]
    pieces = {}

    def step():
      for ticket, sample, piece in engine.step():
        pieces.setdefault((ticket, sample), []).append(piece)

    step()
    engine.cancel(tickets[0], 1)  # Running.
    engine.cancel(tickets[0], 3)  # Waiting, of a group that runs.
    engine.cancel(tickets[2])  # Waiting.
    engine.cancel(tickets[2])  # Again.
    engine.cancel(99)
    while engine.waiting:
      step()
    engine.cancel(tickets[3])  # Running, all that is left of it.
    while not engine.is_idle:
      step()
    assert engine.running == engine.waiting == 0
    assert sorted(*engine._free_prefixes) == [0, 1, 2]
  # What waited was never heard of, what ran not again.
  assert not {(0, 3), (2, 1), (2, 2), (2, 3)} & pieces.keys()
  cancelled_last = []
  for (ticket, i), parts in pieces.items():
    completion = join(parts)
    if ticket == 3:
      assert completion.finish_reason in ('length', None)
      cancelled_last.append(completion.finish_reason)
    elif (ticket, i) in ((0, 1), (2, 0)):
      assert completion.finish_reason is None and len(parts) == 1
    else:
      assert_same([[completion]], [[expected[ticket][i]]], tolerance=0)
  assert None in cancelled_last


# Room for eight blocks of a chunk or two: samples are put back many times.
SCARCE = dataclasses.replace(PLAN, block=8, own_tokens=64)


def pieces_of(decoder, params, asked, plan, on_step=lambda engine, steps: None):
  """({(ticket, sample): its pieces}, the engine)."""
  pieces = {}
  with Engine(decoder, params, plan) as engine:
    for request in asked:
      engine.submit(request)
    steps = 0
    while not engine.is_idle:
      for ticket, sample, piece in engine.step():
        pieces.setdefault((ticket, sample), []).append(piece)
      steps += 1
      on_step(engine, steps)
  return pieces, engine


@pytest.mark.parametrize(
  ('cache_dtype', 'dtype'),
  [
    (None, 'float32'),
    pytest.param('int8', 'float32', marks=pytest.mark.slow),
    pytest.param(None, 'bfloat16', marks=pytest.mark.slow),
  ],
)
def test_samples_that_are_put_back_are_the_same(cache_dtype, dtype, one_device):
  decoder, params = tiny(one_device, dtype=dtype)
  asked = mixed(12)
  scarce, roomy = (
    dataclasses.replace(plan, cache_dtype=cache_dtype)
    for plan in (SCARCE, dataclasses.replace(SCARCE, own_tokens=None))
  )
  found, engine = pieces_of(decoder, params, asked, scarce)
  expected, whole = pieces_of(decoder, params, asked, roomy)
  assert engine.counts['put_back'] > 5 and engine.counts['repeated'] > 50
  assert whole.counts['put_back'] == whole.counts['repeated'] == 0
  assert found.keys() == expected.keys()
  for key, pieces in found.items():
    assert all(len(piece.tokens) for piece in pieces)
    assert_same([[join(pieces)]], [[join(expected[key])]], tolerance=0)
  new = engine.counts['tokens'] - engine.counts['repeated']
  assert new == whole.counts['tokens']
  # All blocks are back.
  assert engine._blocks.free(0) == 8
  assert (engine._blocks.missing(np.full(5, 1)) == 1).all()


def test_no_token_changes_when_weights_do(one_device):
  decoder, params = tiny(one_device)
  asked = requests(max_new_tokens=64, samples=2)
  published = [tiny(one_device, seed=seed)[1] for seed in (2, 3, 4)]
  before = {}

  def publish(engine, steps):
    if steps % 12 == 0 and published:
      engine.publish(published.pop())

  found, engine = pieces_of(decoder, params, asked, SCARCE, publish)
  assert engine.counts['repeated'] > 20 and engine.version == 3
  for key, pieces in found.items():
    completion = join(pieces)
    assert len(completion.tokens) == 64, key
    assert (np.diff(completion.versions) >= 0).all()
    before[key] = completion
  # The tokens of the first version are those of an engine that kept it.
  expected = run(decoder, params, asked, PLAN)
  for (ticket, sample), completion in before.items():
    count = int((completion.versions == 0).sum())
    same = expected[ticket][sample].tokens[:count]
    np.testing.assert_array_equal(completion.tokens[:count], same)


def test_what_was_put_back_can_be_cancelled(one_device):
  decoder, params = tiny(one_device)
  asked = requests(max_new_tokens=40)
  expected = run(decoder, params, asked)
  cancelled = set()

  def cancel(engine, steps):
    for group in list(engine._queue):
      for sample in sorted(group.put_back):
        if not cancelled:
          cancelled.add((group.ticket, sample))
          engine.cancel(group.ticket, sample)

  found, engine = pieces_of(decoder, params, asked, SCARCE, cancel)
  assert len(cancelled) == 1
  assert engine.running == engine.waiting == 0
  for (ticket, sample), pieces in found.items():
    completion = join(pieces)
    if (ticket, sample) in cancelled:
      assert completion.finish_reason is None
    else:
      assert_same([[completion]], [[expected[ticket][sample]]])


def test_who_comes_back_has_all_its_blocks_at_once(one_device):
  decoder, params = tiny(one_device)

  def look(engine, _):
    for slot, row in engine._by_slot.items():
      positions_B = np.zeros(SCARCE.slots, int)
      positions_B[slot] = len(row.replay)
      assert not engine._blocks.missing(positions_B)[slot]

  _, engine = pieces_of(decoder, params, mixed(12), SCARCE, look)
  assert engine.counts['repeated']


def test_the_youngest_sample_is_put_back_before_its_group(one_device):
  decoder, params = tiny(one_device)
  # Three samples of 32 tokens, of which the third finds the blocks taken.
  plan = dataclasses.replace(SCARCE, slots=3, group=3, own_tokens=72)
  plan = dataclasses.replace(plan, max_new_tokens=32)
  asked = requests(max_new_tokens=32, samples=4)[:1]
  seen = []

  def look(engine, _):
    seated = sorted(row.sample for row in engine._by_slot.values())
    if seated and (not seen or seen[-1] != seated):
      seen.append(seated)

  pieces_of(decoder, params, asked, plan, look)
  assert seen[:2] == [[0, 1, 2], [0, 1]]
  # Sample 2 comes back before sample 3 enters.
  assert [2, 3] in seen and seen[-1] in ([3], [2, 3])


def test_one_program_serves_all_requests(one_device):
  decoder, params = tiny(one_device)
  with Engine(decoder, params, PLAN) as engine:
    list(Sampler(engine).run(mixed()))  # Every length of prompt.
    with compilations.counted() as counted:
      list(Sampler(engine).run(mixed(20)[5:]))
    assert counted.count == 0
    assert engine.counts['prompt_tokens'] <= engine.counts['prompt_positions']
    assert engine.counts['tokens'] <= engine.counts['row_steps']


@pytest.mark.slow
def test_small_caches_change_logprobs_a_little(one_device):
  """Run with -s for the figures."""
  decoder, params = tiny(one_device, 'tiny_qwen3')
  asked = requests(max_new_tokens=48, samples=4)
  for dtype, mean, largest in (
    ('float32', 1e-6, 1e-5),
    ('bfloat16', 0.005, 0.05),
    ('int8', 0.01, 0.1),
  ):
    found = run(
      decoder, params, asked, dataclasses.replace(PLAN, cache_dtype=dtype)
    )
    gaps = np.concatenate(
      [
        completion.logprobs
        - decode_test.score(
          decoder, params, request.prompt_tokens, completion.tokens
        )
        for request, group in zip(asked, found, strict=True)
        for completion in group
      ]
    )
    far, kl = np.abs(gaps), np.mean(np.exp(-gaps) - 1 + gaps)
    print(
      f'\n{dtype} cache: |gap| mean {far.mean():.1e} '
      f'p99 {np.quantile(far, 0.99):.1e} max {far.max():.1e}, KL {kl:.1e}'
    )
    assert far.mean() < mean
    assert far.max() < largest
    assert dtype == 'float32' or far.max() > 1e-5


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'prompt_tokens': (1,) * 61}, '61 prompt tokens, but at most 60'),
    ({'max_new_tokens': 65}, '65 new tokens, but at most 64'),
    ({'prompt_tokens': (259,)}, 'has token 259, .* are 0 to 258'),
    (
      {'interruption': Interruption(phrase=(300,), after=(1, 1), answer=1)},
      'has token 300, .* are 0 to 258',
    ),
    ({'stops': ((1,),) * 5}, '5 stops, but at most 4 fit'),
  ],
)
def test_what_cannot_be_served_is_refused_at_once(change, message, one_device):
  decoder, params = tiny(one_device)
  with Engine(decoder, params, PLAN) as engine:
    with pytest.raises(ValueError, match=message):
      engine.submit(dataclasses.replace(requests()[0], **change))
    assert engine.is_idle


def test_broken_weights_are_noticed(one_device):
  decoder, params = tiny(one_device)
  broken = params | {'norm': params['norm'].at[3].set(jnp.nan)}
  with Engine(decoder, params, PLAN) as engine:
    engine.submit(requests(samples=1)[0])
    engine.step()
    engine.publish(broken)
    with pytest.raises(FloatingPointError, match=r'prompt 0, .* version 1'):
      engine.step()


def test_what_to_try_depends_on_the_type():
  said = str(nan_error('request 0', 'weights of version 0', 'float32'))
  assert said.endswith(
    'activations overflow float32. Is the model file complete?'
  )
  said = str(nan_error('request 0', 'its weights', 'bfloat16'))
  assert said.endswith(
    'bfloat16. Is the model file complete? Try dtype=float32.'
  )


def token(words, position):
  """What the devices below sample: one number in each place, as from a key."""
  return (int(words[1]) + 31 * int(words[3]) + 7 * int(position)) % 250


def pretend_chunk(decoder, params, prefixes, own, slots, *, steps):
  """What `chunks.decode_chunk` returns, of tokens that need no devices."""
  del decoder, params, prefixes
  report = chunks._empty_report(slots, len(slots.token_B), steps)
  report = jax.tree.map(np.array, report)
  for slot in np.flatnonzero(slots.running_B):
    start, limit = slots.sampled_B[slot], slots.limit_B[slot]
    for i in range(min(steps, limit - start)):
      new = token(slots.key_words_BC[slot], start + i)
      assert slots.replay_BT[slot, i] in (chunks.NO_TOKEN, new)
      report.tokens_BT[slot, i] = new
      report.count_B[slot] += 1
      if new < 2 or start + i + 1 == limit:
        report.finish_B[slot] = chunks.STOP if new < 2 else chunks.LENGTH
        break
  return own, report


def expected_tokens(request, sample):
  tokens = []
  while len(tokens) < request.limits[sample]:
    tokens.append(token(request.key_words(sample), len(tokens)))
    if tokens[-1] < 2:
      break
  return tokens


def check_seats(engine):
  """Samples sit on the shard of their prefix; nothing is in two places."""
  shards = engine.decoder.layout.batch_size
  plan, readers = engine.plan, engine._readers()
  taken = {}
  for slot, row in engine._by_slot.items():
    taken.setdefault(row.group.prefix, set()).add(row.group)
    place = readers.place_B[slot]
    assert readers.rows_PG.reshape(-1)[place] == slot
    assert place // plan.group == row.group.prefix
    shard = row.group.prefix // (plan.num_prompts // shards)
    assert slot // (plan.slots // shards) == shard
    assert row.group.running <= plan.group
  assert all(len(groups) == 1 for groups in taken.values())
  free = [row for rows in engine._free_prefixes for row in rows]
  assert len(free) == len(set(free)) and not taken.keys() & set(free)
  assert not engine._prefix_length_P[free].any()


def check_order(engine, monkeypatch):
  """Nobody enters a slot that an earlier request could have had."""
  shard_of, enter = engine._blocks.shard, engine._enter

  def checked(slot, group):
    for other in engine._queue:
      if other.ticket < group.ticket and other.running < engine.plan.group:
        assert other.prefix is not None or not other.waiting
        assert not other.waiting or shard_of(slot) not in engine._shards(other)
    enter(slot, group)

  monkeypatch.setattr(engine, '_enter', checked)


def random_requests(rng, plan):
  """Groups of any size, some larger than all slots; lengths of all kinds."""
  asked = []
  for i in range(rng.randint(1, 25)):
    samples = rng.choice([1, 2, 3, 4, rng.randint(1, 2 * plan.slots)])
    longest = rng.choice([3, 20, 64, 64])
    asked.append(Request(
      prompt_tokens=tuple(range(rng.choice([1, 2, 17, 60]))), id=f'{i}',
      samples=samples,
      max_new_tokens=tuple(rng.randint(1, longest) for _ in range(samples)),
    ))  # fmt: skip
  return asked


def random_plan(rng, shards):
  own_tokens = rng.choice([None, 64, 70, 80, 100])
  slots = shards * rng.randint(1, 8)
  return dataclasses.replace(
    PLAN, slots=slots, group=rng.choice([1, 2, 4, 8, slots]),
    prompts=shards * rng.randint(1, 4), block=rng.choice([4, 8, 16]),
    own_tokens=own_tokens and shards * own_tokens,
  )  # fmt: skip


def random_run(seed, sizes, monkeypatch):
  """Runs random requests, some of which are cancelled; returns all that was
  decided: who sat where at each step.
  """
  rng = random.Random(seed)
  layout = make_layout(
    **sizes, devices=jax.devices()[: math.prod(sizes.values())]
  )
  decoder, params = tiny(layout)
  plan = random_plan(rng, layout.batch_size)
  asked, history = random_requests(rng, plan), []
  late = asked[rng.randint(0, len(asked)) :]
  found, cancelled = collections.defaultdict(list), set()
  with Engine(decoder, params, plan) as engine:
    check_order(engine, monkeypatch)
    for request in asked[: len(asked) - len(late)]:
      engine.submit(request)
    while not engine.is_idle or late:
      if late and (engine.is_idle or rng.random() < 0.3):
        engine.submit(late.pop(0))
      before = engine.counts['row_steps']
      for ticket, sample, piece in engine.step():
        found[ticket, sample] += piece.tokens.tolist()
        assert piece.finish_reason or not len(piece.tokens) % plan.chunk
      # Never a step in which nobody moves.
      assert engine.counts['row_steps'] > before
      check_seats(engine)
      history.append(
        {s: (r.group.ticket, r.sample) for s, r in engine._by_slot.items()}
      )
      if rng.random() < 0.1:
        ticket = rng.randrange(engine._tickets)
        sample = rng.choice([None, rng.randrange(asked[ticket].samples)])
        samples = range(asked[ticket].samples) if sample is None else [sample]
        cancelled |= {(ticket, sample) for sample in samples}
        engine.cancel(ticket, sample)
    assert not engine._blocks.missing(np.zeros(plan.slots)).any()
    assert sum(map(len, engine._free_prefixes)) == plan.prompts
  for ticket, request in enumerate(asked):
    for sample in range(request.samples):
      expected = expected_tokens(request, sample)
      tokens = found[ticket, sample]
      assert tokens == expected[: len(tokens)]
      assert len(tokens) == len(expected) or (ticket, sample) in cancelled
  return history, engine.counts


@pytest.mark.parametrize(
  'sizes', [{'data': 1}, {'data': 2}, {'data': 2, 'fsdp': 2}, {'data': 8}],
  ids=str,
)  # fmt: skip
def test_everybody_gets_a_seat_beside_their_prefix(sizes, monkeypatch):
  monkeypatch.setattr(chunks, 'decode_chunk', pretend_chunk)
  monkeypatch.setattr(chunks, 'prefill_into', lambda *arguments: arguments[2])
  counts = collections.Counter()
  for seed in range(12):
    history, counted = random_run(seed, sizes, monkeypatch)
    assert random_run(seed, sizes, monkeypatch)[0] == history
    counts += counted
  assert counts['put_back'] > 50


def test_new_groups_go_where_there_is_room(monkeypatch):
  monkeypatch.setattr(chunks, 'decode_chunk', pretend_chunk)
  monkeypatch.setattr(chunks, 'prefill_into', lambda *arguments: arguments[2])
  decoder, params = tiny(make_layout(data=4, devices=jax.devices()[:4]))
  plan = dataclasses.replace(PLAN, slots=16, prompts=8, group=4)

  def seats(engine):
    """The tickets in each shard's slots."""
    tickets = [
      engine._by_slot[slot].group.ticket if slot in engine._by_slot else None
      for slot in range(plan.slots)
    ]
    return [tickets[i : i + 4] for i in range(0, plan.slots, 4)]

  def ask(i, samples):
    return Request(
      prompt_tokens=(1, 2), id=f'{i}', samples=samples, max_new_tokens=64,
      temperature=0,
    )  # fmt: skip

  with Engine(decoder, params, plan) as engine:
    for i, samples in enumerate((3, 3, 9, 2, 2)):
      engine.submit(ask(i, samples))
    engine._admit()
    assert seats(engine) == [
      [0, 0, 0, None], [1, 1, 1, None], [2, 2, 2, 2], [3, 3, 4, 4]
    ]  # fmt: skip
    # The third waits for its own shard; a larger group starts elsewhere.
    engine.submit(ask(5, 3))
    engine._admit()
    assert seats(engine)[0] == [0, 0, 0, 5]
    # Two more of it wait there, and nobody overtakes them.
    engine.submit(ask(6, 1))
    engine.submit(ask(7, 1))
    engine._admit()
    assert seats(engine)[:2] == [[0, 0, 0, 5], [1, 1, 1, 6]]
    assert engine.waiting == 5 + 2 + 1
    engine.cancel(0)
    engine._admit()
    assert seats(engine)[0] == [5, 5, 7, 5]
  # Eight of a request may run at once, on two shards of four slots.
  plan = dataclasses.replace(plan, group=8)
  with Engine(decoder, params, plan) as engine:
    engine.submit(ask(0, 11))
    engine.submit(ask(1, 9))
    engine._admit()
    assert seats(engine) == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]
    by_slot = [engine._by_slot[slot].sample for slot in range(plan.slots)]
    assert by_slot == [0, 1, 2, 3, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7]
    assert engine.waiting == 3 + 1


@pytest.mark.slow
@pytest.mark.parametrize(('model', 'sizes'), decode_test.EIGHT_DEVICES, ids=str)
def test_eight_devices_sample_what_one_does(model, sizes, one_device):
  asked = mixed()
  expected = run(*tiny(one_device, model), asked, SHARDED)
  found = run(*tiny(make_layout(**sizes), model), asked, SHARDED)
  assert_same(found, expected)
  # Each shard of the batch has the blocks of one long sample, and its rows.
  layout = make_layout(**sizes)
  scarce = dataclasses.replace(
    SHARDED, block=8, own_tokens=64 * layout.batch_size
  )
  with Engine(*tiny(layout, model), scarce) as engine:
    assert_same(list(Sampler(engine).run(asked)), expected)
    # A row that is alone in its shard can always grow.
    is_alone = layout.batch_size == scarce.slots
    assert (engine.counts['put_back'] > 0) != is_alone


@pytest.mark.slow
@pytest.mark.parametrize(
  'sizes', [{'data': 4}, {'data': 2, 'fsdp': 2, 'tensor': 2}], ids=str
)
def test_kernels_on_several_devices_sample_what_one_does(
  sizes, monkeypatch, one_device
):
  """The kernel of GPUs, with seats that it needs; XLA's attention on one."""
  plan = dataclasses.replace(
    PLAN, slots=16, prompts=8, group=8, block=8, own_tokens=4 * 64
  )
  # Two groups, each with twice as many samples as a shard has slots.
  large = requests(max_new_tokens=40, samples=16)[3]
  asked = [large, *mixed(8)]
  roomy = dataclasses.replace(plan, own_tokens=None)
  expected = run(*tiny(one_device), asked, roomy)
  kernel, calls = decode_kernel.attend_to_filled, []

  def interpreted(*arguments, layout):
    calls.append(layout)
    return kernel(*arguments, layout=layout, interpret=True)

  monkeypatch.setattr(decode_kernel, 'attend_to_filled', interpreted)
  monkeypatch.setattr(attention, 'pick_decode_kernel', lambda *_: 'gpu')
  size = math.prod(sizes.values())
  decoder, params = tiny(make_layout(**sizes, devices=jax.devices()[:size]))
  # Another static argument, so that it is compiled again.
  compute = dataclasses.replace(decoder.compute, head_chunk=64)
  decoder = dataclasses.replace(decoder, compute=compute)

  def look(engine, steps):
    check_seats(engine)
    if steps == 3:
      engine.cancel(1, 1)

  found, engine = pieces_of(decoder, params, asked, plan, look)
  assert calls and engine.counts['put_back'] > 0
  for (ticket, sample), pieces in found.items():
    completion, whole = join(pieces), expected[ticket][sample]
    if (ticket, sample) == (1, 1):
      assert completion.finish_reason is None
      whole = cut(whole, len(completion.tokens))
      whole = dataclasses.replace(whole, finish_reason=None)
    assert_same([[completion]], [[whole]])
  assert len(found) == sum(request.samples for request in asked)
