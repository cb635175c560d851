"""The jitted parts of sampling: prefill of prompts and chunks of decode steps.

A slot is a row of the batch, which holds one sample at a time. The host keeps
all small state of a slot: it passes `Slots` to each chunk and reads back a
`Report`. Only caches stay on the devices:

  prefixes  one row per prompt: all its tokens except the last
  own       a pool of blocks, or one row per slot: the last token of the prompt
            and the tokens sampled after it, before the running chunk
  recent    the tokens of the running chunk; at each step, all rows write the
            same column; when the chunk ends, the tokens move to `own`

The last token of a prompt is the first input of a row. So the first token of a
completion is sampled like all others: by a decode step, under the weights at
that time.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.models.cache import Readers
from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling import caches, logits_kernel
from rlpt_jax.sampling import logits as logits_lib
from rlpt_jax.sampling.caches import Stored
from rlpt_jax.sampling.logits import Settings

RUNNING, STOP, LENGTH = 0, 1, 2  # Report.finish_B
# For a few hundred rows, cuBLAS is faster than the kernels that XLA generates
# and would choose: a step of Qwen3-1.7B takes 6.59 ms instead of 6.87 (256
# rows, H200, jax 0.11.2, 2026-11-28). But only these read an int8 cache without
# writing a converted copy.
GPU_OPTIONS = {'xla_gpu_enable_triton_gemm': False}
ANY, NO_TOKEN = -1, -2  # In a stop, ANY matches every token, NO_TOKEN none.


@struct.dataclass
class Slots:
  """The host's state of all rows; each row has C stops of at most W tokens."""

  running_B: jax.Array  # bool
  token_B: jax.Array  # The next input: the last token so far.
  sampled_B: jax.Array  # Tokens sampled so far.
  prefix_length_P: jax.Array
  readers: Readers | None  # The slots of each prefix; None: consecutive ones.
  key_words_BC: jax.Array  # uint32, Request.key_words.
  settings: Settings
  limit_B: jax.Array  # Number of tokens after which a row ends.
  stops_BCW: jax.Array  # Padded on the left with ANY; unused: NO_TOKEN.
  last_BW: jax.Array  # Last sampled tokens, NO_TOKEN before the first.
  interrupt_B: jax.Array  # Where the forced phrase starts, or NEVER.
  phrase_BW: jax.Array
  phrase_length_B: jax.Array
  answer_B: jax.Array  # Tokens allowed after the phrase.
  unless_BW: jax.Array  # A row that samples these tokens is not interrupted.
  blocks_BM: jax.Array | None = None  # Blocks of each row, if `own` is a pool.
  replay_BT: jax.Array | None = None  # Tokens to repeat, or NO_TOKEN.


@struct.dataclass
class Report:
  """The tokens of each row in a chunk: valid in the first `count_B` columns."""

  tokens_BT: jax.Array
  logprobs_BT: jax.Array
  policy_logprobs_BT: jax.Array
  is_own_BT: jax.Array
  count_B: jax.Array
  finish_B: jax.Array
  last_BW: jax.Array
  interrupt_B: jax.Array


@functools.partial(jax.jit, static_argnames=('decoder', 'dtype'))
def prefill(
  decoder: Decoder, params, tokens_PS, segments_PS, *, dtype: str
) -> Stored:
  """Keys and values of prompts, one prompt per row."""
  cache = decoder_lib.prefill(decoder, params, tokens_PS, segments_PS)
  return caches.store(cache, dtype)


@functools.partial(
  jax.jit, static_argnames='decoder', donate_argnames='prefixes'
)
def prefill_into(
  decoder: Decoder, params, prefixes: Stored, tokens_PS, segments_PS, rows_P
) -> Stored:
  """The prefixes, with keys and values of new prompts in the rows `rows_P`."""
  dtype = caches.dtype_of(prefixes)
  new = prefill(decoder, params, tokens_PS, segments_PS, dtype=dtype.name)
  return caches.replace_rows(prefixes, new, rows_P)


def decode_chunk(decoder: Decoder, params, prefixes, own, slots, *, steps: int):
  """Samples up to `steps` tokens for every row; returns (own cache, Report).

  own: is consumed.
  """
  run = compiled_for(decoder.layout.platform, caches.dtype_of(own))
  return run(decoder, params, prefixes, own, slots, steps=steps)


@functools.cache
def compiled_for(platform: str, cache_dtype):
  """The jitted function that `decode_chunk` calls."""
  has_options = platform == 'gpu' and jnp.dtype(cache_dtype) != jnp.int8
  return jax.jit(
    decode_steps,
    static_argnames=('decoder', 'steps'),
    donate_argnames='own',
    compiler_options=GPU_OPTIONS if has_options else None,
  )


def decode_steps(
  decoder: Decoder,
  params,
  prefixes: Stored,
  own: Stored,
  slots: Slots,
  *,
  steps: int,
) -> tuple[Stored, Report]:
  """Does the work of `decode_chunk`, which compiles it."""
  layout, B = decoder.layout, slots.token_B.shape[0]
  filled_B = slots.sampled_B  # Tokens in `own` when the chunk begins.
  before = (
    caches.context(prefixes, slots.prefix_length_P, slots.readers),
    caches.context(own, filled_B, blocks_BM=slots.blocks_BM),
  )
  recent = caches.context(
    caches.empty(decoder, B, steps, decoder.compute.dtype), jnp.zeros((B,), int)
  )
  keys_B2 = logits_lib.row_keys(slots.key_words_BC)
  one_token_B1 = jnp.ones((B, 1), jnp.int32)
  sample = None  # By XLA's operations.
  if logits_kernel.fits(layout):
    sample = functools.partial(logits_kernel.sample, layout=layout)
  choose = functools.partial(logits_lib.choose, sample=sample)

  def unfinished(carry):
    i, _, _, report = carry
    return (i < steps) & _alive(slots, report).any()

  def step(carry):
    i, token_B, recent, report = carry
    out = decoder_lib.decode(
      decoder, params, token_B[:, None], one_token_B1, before, recent, i
    )
    logits_BV = head.logits(decoder, params, out.hidden_BTD)[:, 0]
    token_B, report = _advance(slots, report, logits_BV, choose, keys_B2, i)
    return i + 1, token_B, out.cache, report

  start = (0, slots.token_B, recent, _empty_report(slots, B, steps))
  _, _, recent, report = jax.lax.while_loop(unfinished, step, start)
  new = caches.store(recent, caches.dtype_of(own))
  if slots.blocks_BM is None:
    own = caches.append(own, new, filled_B)
  else:
    own = caches.append_to_blocks(
      own, new, filled_B, slots.blocks_BM, slots.running_B, layout=layout
    )
  # Replicated: every host makes its decisions from the whole report.
  replicated = layout.replicated()
  return own, jax.lax.with_sharding_constraint(report, replicated)


def _alive(slots: Slots, report: Report):
  return slots.running_B & (report.finish_B == RUNNING)


def _empty_report(slots: Slots, B: int, steps: int) -> Report:
  return Report(
    tokens_BT=jnp.zeros((B, steps), jnp.int32),
    logprobs_BT=jnp.zeros((B, steps), jnp.float32),
    policy_logprobs_BT=jnp.zeros((B, steps), jnp.float32),
    is_own_BT=jnp.zeros((B, steps), bool),
    count_B=jnp.zeros((B,), jnp.int32),
    finish_B=jnp.full((B,), RUNNING, jnp.int32),
    last_BW=slots.last_BW,
    interrupt_B=slots.interrupt_B,
  )


def _advance(slots: Slots, report: Report, logits_BV, choose, keys_B2, i):
  """(the next token of each row, the report with that token added)."""
  alive_B = _alive(slots, report)
  position_B = slots.sampled_B + i
  choice = choose(logits_BV, keys_B2, position_B, slots.settings)
  token_B = choice.token_B
  # An interruption replaces the policy's tokens with its phrase.
  in_phrase_B = position_B - report.interrupt_B
  forced_B = (in_phrase_B >= 0) & (in_phrase_B < slots.phrase_length_B)
  W = slots.phrase_BW.shape[1]
  place_B1 = jnp.clip(in_phrase_B, 0, W - 1)[:, None]
  phrase_B = jnp.take_along_axis(slots.phrase_BW, place_B1, axis=1)[:, 0]
  token_B = jnp.where(forced_B, phrase_B, token_B)
  if slots.replay_BT is not None:
    replay_B = slots.replay_BT[:, i]
    token_B = jnp.where(replay_B >= 0, replay_B, token_B)
  policy_logprob_B = choice.policy_logprob(logits_BV, token_B)

  last_BW = jnp.concatenate([report.last_BW[:, 1:], token_B[:, None]], axis=1)
  stopped_B = _ends_with(last_BW, slots.stops_BCW).any(-1) & ~forced_B
  after_phrase_B = report.interrupt_B + slots.phrase_length_B + slots.answer_B
  limit_B = jnp.where(
    in_phrase_B >= 0, jnp.minimum(slots.limit_B, after_phrase_B), slots.limit_B
  )
  at_limit_B = position_B + 1 >= limit_B
  finish_B = jnp.where(stopped_B, STOP, jnp.where(at_limit_B, LENGTH, RUNNING))
  has_unless_B1 = _ends_with(last_BW, slots.unless_BW[:, None])
  answers_B = (in_phrase_B < 0) & has_unless_B1[:, 0]

  def column(x_BT, x_B):
    x_B = jnp.where(alive_B, x_B, jnp.zeros_like(x_B))
    return x_BT.at[:, i].set(x_B.astype(x_BT.dtype))

  return token_B, Report(
    tokens_BT=column(report.tokens_BT, token_B),
    logprobs_BT=column(
      report.logprobs_BT, jnp.where(forced_B, 0.0, choice.logprob_B)
    ),
    policy_logprobs_BT=column(report.policy_logprobs_BT, policy_logprob_B),
    is_own_BT=column(report.is_own_BT, ~forced_B),
    count_B=report.count_B + alive_B,
    finish_B=jnp.where(alive_B, finish_B, report.finish_B),
    last_BW=jnp.where(alive_B[:, None], last_BW, report.last_BW),
    interrupt_B=jnp.where(
      alive_B & answers_B, jnp.int32(2**31 - 1), report.interrupt_B
    ),
  )


def _ends_with(last_BW, stops_BCW):
  """[B, C]: True where the last tokens of a row match a stop."""
  same_BCW = (stops_BCW == last_BW[:, None]) | (stops_BCW == ANY)
  return same_BCW.all(-1)
