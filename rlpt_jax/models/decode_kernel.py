"""Attention of a decode step on a GPU, in one kernel over all caches.

Each program of the kernel takes the queries of one group (the rows that share a
prefix) for one key-value head. It reads the prefix once, then each row's own
positions, and keeps one running softmax over all of them: scores never leave
the chip, and positions that are reserved but not filled are not read. A row in
blocks is read block by block, as its table says. Results are merged only if
several programs split the keys.

On several GPUs, each runs the kernel on its own rows and heads. So all that a
row reads must be on its shard of the batch: the engine seats samples so.

The kernel uses Pallas's Triton backend, which JAX has deprecated without an
equal replacement: with the Mosaic backend, a whole decode step with the same
loop took minutes to compile. Tests run the kernel in Pallas's interpreter, on
any CPU.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec

from rlpt_jax.core.layout import Layout

LOG2E = math.log2(math.e)
MASKED = -1e30  # Finite, so that a row that has seen no key yet gets no NaN.
LEAST = 16  # The smallest dimension that tensor cores multiply.

# An H100 has 132 multiprocessors; about two programs for each keep it busy.
ENOUGH_PROGRAMS = 256


def fits(q_BNH, parts, layout: Layout) -> bool:
  """Returns True if the kernel can be used; XLA's attention is used otherwise.

  The head size must be a power of 2, and a group's queries must fit into the
  registers. Nothing beyond these limits was measured. The mesh must split
  queries and all parts alike, into as many shards of rows and of heads.
  """
  _, N, H = q_BNH.shape
  K = parts[0].v_PKSH.shape[1]
  queries = _round_up(_grouping(parts).G * N // K)
  is_power = H >= LEAST and H & (H - 1) == 0
  splits = {_split(x, layout) for x in (q_BNH, *(p.v_PKSH for p in parts))}
  return is_power and H <= 128 and queries * H <= 64 * 128 and len(splits) == 1


def attend_to_filled(q_BNH, parts, *, layout: Layout, **options):
  """The attended values of one query per row, [B, N, H].

  The values of a row that is in no group are 0.

  parts: `attention.Part`s whose `filled_P` says how many positions of each row
    to read. If a part has readers or fewer rows than there are queries, each of
    its rows is shared by a group.
  options: as of `_on_one_device`.
  """
  parts = [dataclasses.replace(part, mask=None) for part in parts]  # Not read.
  run = functools.partial(_on_one_device, **options)
  if layout.mesh.size == 1:
    return run(q_BNH, parts)
  split = _split(q_BNH, layout)
  rows = PartitionSpec(split[0])

  def on_shard(q_BNH, parts):
    shard = jax.lax.axis_index(split[0]) if split[0] else 0
    return run(q_BNH, [_of_shard(part, shard) for part in parts])

  part_specs = [
    dataclasses.replace(
      part, k_PKHS=split, v_PKSH=split, filled_P=rows, readers=rows,
      blocks_BM=rows,
    )
    for part in parts
  ]  # fmt: skip
  return jax.shard_map(
    on_shard,
    mesh=layout.mesh,
    in_specs=(split, part_specs),
    out_specs=split,
    check_vma=False,  # The kernel declares no varying axes.
  )(q_BNH, parts)


def _split(x, layout: Layout) -> PartitionSpec:
  """Returns how the mesh splits the rows and heads of queries or keys."""
  return layout.activation_spec(x.shape[:2], ('batch', 'heads'))


def _of_shard(part, shard):
  """A shard of a part, with rows and blocks counted from its first."""
  readers, blocks_BM = part.readers, part.blocks_BM
  if readers is not None:
    readers = readers.of_shard(shard)
  if blocks_BM is not None:
    blocks_BM -= shard * len(part.v_PKSH)
  return dataclasses.replace(part, readers=readers, blocks_BM=blocks_BM)


def _on_one_device(
  q_BNH, parts, *, block=64, splits=None, warps=4, stages=3, interpret=False
):
  """As `attend_to_filled`.

  block: the number of keys that are read at a time.
  splits: the number of programs for each group and head. If there are several,
    their results are merged.
  """
  B, N, H = q_BNH.shape
  K = parts[0].v_PKSH.shape[1]
  grouping = _grouping(parts)
  is_shared, readers, P, G = grouping
  rows_PG, used_PG = _rows(grouping)
  if splits is None:
    splits = -(-ENOUGH_PROGRAMS // (P * K))
  J = min(splits, G)
  dtype = q_BNH.dtype if J == 1 else jnp.float32
  values_JBNH, lse_JBN = pl.pallas_call(
    functools.partial(
      _kernel,
      is_shared=is_shared,
      counts=[len(_arrays(part)) for part in parts],
      block=block,
    ),
    grid=(P, K, J),
    out_shape=[
      jax.ShapeDtypeStruct((J, B, N, H), dtype),
      jax.ShapeDtypeStruct((J, B, N) if J > 1 else (1, 1, 1), jnp.float32),
    ],
    compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
    interpret=interpret,
    name='attend_to_filled',
  )(
    rows_PG,
    used_PG,
    q_BNH,
    *itertools.chain(*map(_arrays, parts)),
  )
  values_BNH = values_JBNH[0]
  if J > 1:
    weights_JBN = jax.nn.softmax(lse_JBN / LOG2E, axis=0)
    values_BNH = (values_JBNH * weights_JBN[..., None]).sum(0)
  if readers is not None:
    # No program writes the values of a row in no group, so they may be NaN.
    in_group_B = rows_PG.reshape(-1)[readers.place_B] == np.arange(B)
    values_BNH = jnp.where(in_group_B[:, None, None], values_BNH, 0)
  return values_BNH.astype(q_BNH.dtype)


def _arrays(part):
  """The arrays of a part that the kernel reads."""
  arrays = part.k_PKHS, part.v_PKSH, part.filled_P
  return arrays if part.blocks_BM is None else (*arrays, part.blocks_BM)


def _kernel(rows_ref, used_ref, q_ref, *refs, is_shared, counts, block):
  *part_refs, values_ref, lse_ref = refs
  B, N, H = q_ref.shape
  G, J, K = rows_ref.shape[1], values_ref.shape[0], part_refs[0].shape[1]
  R = N // K
  M = _round_up(G * R)
  p, k, j = (pl.program_id(i) for i in range(3))
  # Query m belongs to head k * R + m % R and to row m // R of the group.
  m_M = _iota(M)
  g_M = jnp.minimum(m_M // R, G - 1)
  head_M = k * R + m_M % R
  used_M = (triton.load(used_ref.at[p, g_M]) > 0) & (m_M < G * R)
  # Unused entries get row B, which is out of bounds: otherwise the interpreter
  # would store their values in spite of the mask.
  row_M = jnp.where(used_M, triton.load(rows_ref.at[p, g_M]), B)
  used_MH = jnp.broadcast_to(used_M[:, None], (M, H))
  here = (row_M[:, None], head_M[:, None], _iota(H)[None, :])
  q_MH = triton.load(q_ref.at[here], mask=used_MH, other=0.0)

  program = _Program(p, k, j, J, rows_ref, used_ref, q_MH, g_M, block)
  state = (
    jnp.zeros((M, H), jnp.float32),
    jnp.full((M,), MASKED, jnp.float32),
    jnp.zeros((M,), jnp.float32),
  )
  part_refs = iter(part_refs)
  for shared, count in zip(is_shared, counts, strict=True):
    read = _read_group if shared else _read_rows
    state = read(program, state, *itertools.islice(part_refs, count))
  values_MH, top_M, total_M = state
  total_M = jnp.maximum(total_M, 1e-30)  # A split may hold no keys of a row.
  values_MH = (values_MH / total_M[:, None]).astype(values_ref.dtype)
  triton.store(values_ref.at[(j, *here)], values_MH, mask=used_MH)
  if J > 1:
    lse_M = top_M + jnp.log2(total_M)
    triton.store(lse_ref.at[j, row_M, head_M], lse_M, mask=used_M)


class _Program(NamedTuple):
  """One program: group p, key-value head k, and split j of J of the keys."""

  p: Any
  k: Any
  j: Any
  J: int
  rows_ref: Any
  used_ref: Any
  q_MH: Any
  g_M: Any  # The place of each query's row in the group.
  block: int

  def share(self, count):
    """(first, end): which of `count` items this split takes."""
    if self.J == 1:
      return 0, count
    return self.j * count // self.J, (self.j + 1) * count // self.J


def _read_group(program, state, k_ref, v_ref, filled_ref):
  """Attends to the row of keys that all queries share."""
  p, size = program.p, _block_size(v_ref, program.block)
  filled = filled_ref[p]

  def step(i, state):
    k_HS, v_SH, seen_S = _load(
      k_ref, v_ref, p, program.k, i * size, filled, size
    )
    return _attend(program.q_MH, k_HS, v_SH, seen_S[None, :], state)

  first, last = program.share(pl.cdiv(filled, size))
  return jax.lax.fori_loop(first, last, step, state)


def _read_rows(program, state, k_ref, v_ref, filled_ref, table_ref=None):
  """Attends to the keys of each query's own row.

  table_ref: the blocks of each row, if it is in blocks. The kernel reads a
    block in one or several steps.
  """
  size, room = _block_size(v_ref, program.block), v_ref.shape[2]
  steps = pl.cdiv(room, size)

  def one_row(g, state):
    row = program.rows_ref[program.p, g]
    filled = filled_ref[row] * program.used_ref[program.p, g]

    def step(i, state):
      place, start, end = row, i * size, filled
      if table_ref is not None:
        column = jax.lax.div(i, jnp.int32(steps))
        place, start = table_ref[row, column], (i - column * steps) * size
        end = jnp.minimum(filled - column * room, room)
      k_HS, v_SH, seen_S = _load(
        k_ref, v_ref, place, program.k, start, end, size
      )
      seen_MS = seen_S[None, :] & (program.g_M == g)[:, None]
      return _attend(program.q_MH, k_HS, v_SH, seen_MS, state)

    if table_ref is not None:
      full = jax.lax.div(filled, jnp.int32(room))
      count = full * steps + pl.cdiv(filled - full * room, size)
      return jax.lax.fori_loop(0, count, step, state)
    if room <= size:
      # Without an inner loop, the loop over rows can fetch ahead.
      return step(0, state)
    return jax.lax.fori_loop(0, pl.cdiv(filled, size), step, state)

  first, last = program.share(program.rows_ref.shape[1])
  return jax.lax.fori_loop(first, last, one_row, state)


def _round_up(queries: int) -> int:
  return max(LEAST, 1 << (queries - 1).bit_length())


class _Grouping(NamedTuple):
  """Which parts are shared by groups, and the P groups of G rows."""

  is_shared: list[bool]
  readers: Any
  P: int
  G: int


def _grouping(parts) -> _Grouping:
  # No part in blocks is shared.
  whole = [part for part in parts if part.blocks_BM is None]
  shared = min(
    whole, key=lambda part: (part.readers is None, part.v_PKSH.shape[0])
  )
  P, readers = shared.v_PKSH.shape[0], shared.readers
  # If no part is shared, each row is a group of its own.
  is_shared = [
    part is shared
    or (
      readers is None and part.blocks_BM is None and part.v_PKSH.shape[0] == P
    )
    for part in parts
  ]
  if readers is not None:
    return _Grouping(is_shared, readers, P, readers.rows_PG.shape[1])
  rows = max(part.v_PKSH.shape[0] for part in whole)
  return _Grouping(is_shared, None, P, rows // P)


def _rows(grouping: _Grouping):
  """(rows_PG: the rows of each group, used_PG: 1 where an entry is in use)."""
  _, readers, P, G = grouping
  if readers is None:
    # Numpy constants: XLA would compute jnp's again in every layer.
    rows_PG = np.arange(P * G, dtype=np.int32).reshape(P, G)
    return rows_PG, np.ones_like(rows_PG)
  rows_PG = jnp.asarray(readers.rows_PG, jnp.int32)
  index_PG = np.arange(P * G, dtype=np.int32).reshape(P, G)
  # Unused entries may name any row, but place_B leads to the entry in use.
  used_PG = (readers.place_B[rows_PG] == index_PG).astype(jnp.int32)
  return rows_PG, used_PG


def _block_size(v_ref, block: int) -> int:
  positions = v_ref.shape[2]
  return max(LEAST, min(block, 1 << (positions - 1).bit_length()))


def _load(k_ref, v_ref, row, k, start, end, size):
  """(keys [H, size], values [size, H], mask of positions before `end`)."""
  _, _, S, H = v_ref.shape
  ids_S, place = start + _iota(size), pl.ds(start, size)
  k_ref, v_ref = k_ref.at[row, k, :, place], v_ref.at[row, k, place, :]
  seen_S = ids_S < end
  # A weight of 0 would not cancel a NaN in values that were never filled.
  seen_SH = jnp.broadcast_to(seen_S[:, None], (size, H))
  v_SH = triton.load(v_ref, mask=seen_SH, other=0.0)
  if S % size == 0:
    return triton.load(k_ref), v_SH, seen_S
  inside_HS = jnp.broadcast_to((ids_S < S)[None, :], (H, size))
  return triton.load(k_ref, mask=inside_HS, other=0.0), v_SH, seen_S


def _attend(q_MH, k_HS, v_SH, seen_MS, state):
  """Adds keys to the running (weighted sum, largest score, sum of weights)."""
  values_MH, top_M, total_M = state
  product = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
  # In base 2, which the hardware computes.
  scores_MS = product(q_MH, k_HS) * (q_MH.shape[1] ** -0.5 * LOG2E)
  scores_MS = jnp.where(seen_MS, scores_MS, MASKED)
  new_top_M = jnp.maximum(top_M, scores_MS.max(axis=1))
  shrink_M = jnp.exp2(top_M - new_top_M)
  weights_MS = jnp.exp2(scores_MS - new_top_M[:, None])
  values_MH = values_MH * shrink_M[:, None]
  values_MH += product(weights_MS.astype(v_SH.dtype), v_SH)
  return values_MH, new_top_M, total_M * shrink_M + weights_MS.sum(axis=1)


def _iota(size):
  return jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
