"""Continuous batching: each free slot takes the next sample of the queue.

A slot is a row of the batch. Samples enter and leave slots between chunks of
decode steps; the devices run one program of fixed shape. A prompt is prefilled
once, into a row of the prefix cache, and stays until the last of its samples
ends; the mapping of slots to prefixes is an input of the program. All decisions
depend only on host state that is equal on all hosts of a pod, so that all hosts
decide the same.

If devices split the batch, the samples of a group sit on the shard of their
prefix, so that no device needs another's keys. They wait for slots there even
if others are free elsewhere. If a shard has fewer slots than a request may take
at once, the request becomes several groups, each with a prefix of its own.

A sample takes blocks of the cache as it grows. If none are free, the sample
that entered last is put back: it waits again, before the other samples of its
group. When it has a slot again, it is computed from its first token on, but the
tokens that it had are repeated, not sampled. So their keys and values are the
same to the last bit, as prefilled ones would not be (except for tokens that it
came with: see below); no token is handed out twice, and none changes. If new
weights were published in between, they compute the keys and values of the
repeated tokens, too.

A sample may also come with tokens that it had elsewhere: before an update, or
before a restart. When it first has a slot, their keys and values are computed
at once (begun.py).
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlpt_jax.models.cache import Readers
from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling import begun as begun_lib
from rlpt_jax.sampling import caches, chunks
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.begun import Begun
from rlpt_jax.sampling.blocks import Blocks
from rlpt_jax.sampling.chunks import NO_TOKEN
from rlpt_jax.sampling.decode import bucket, pad_prompts
from rlpt_jax.sampling.groups import Group, Row, make_group
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Completion, Request, without_first
from rlpt_jax.sampling.table import Table


def nan_error(where: str, model: str, dtype: str) -> FloatingPointError:
  """The error for NaN log-probabilities; cli.py prints it as one line."""
  cure = '' if dtype == 'float32' else ' Try dtype=float32.'
  return FloatingPointError(
    f'{where}: NaN log-probability with {model}: the weights are damaged, or '
    f'activations overflow {dtype}. Is the model file complete?{cure}'
  )


class Engine:
  """Samples the submitted requests in slots, a chunk of tokens at each `step`.

  Its owner is a Sampler, which hands completions to those who asked for them.
  """

  def __init__(
    self,
    decoder: Decoder,
    params,
    plan: Plan,
    *,
    consume: bool = False,
    version: int = 0,
  ):
    """params: the learner's parameters; the engine keeps copies (`publish`).

    consume: frees `params` while copying; for callers that no longer need them.
    version: the version of these weights; each `publish` adds 1.
    """
    plan = plan_lib.fitted(plan, decoder.layout)
    self.memory = plan_lib.check(
      plan, decoder, loaded=params if consume else {}
    )
    self.decoder, self.plan, self.version = decoder, plan, version
    self._params = publish(decoder, params, consume=consume)
    dtype = plan.dtype(decoder)
    self._prefixes = caches.empty(
      decoder, plan.num_prompts, plan.prefix_length, dtype
    )
    self._own = caches.empty(decoder, plan.num_blocks, plan.block_size, dtype)
    self._blocks = Blocks(
      plan.slots, plan.columns, plan.num_blocks, size=plan.block_size,
      shards=decoder.layout.batch_size,
    )  # fmt: skip
    self._table = Table(plan.slots, plan.sizes)
    self._prefix_length_P = np.zeros(plan.num_prompts, np.int32)
    self._queue: collections.deque[Group] = collections.deque()
    self._groups: dict[int, list[Group]] = {}  # Unfinished, by ticket.
    self._by_slot: dict[int, Row] = {}
    # The free rows of each shard of the batch.
    self._free_prefixes = [
      rows.tolist()
      for rows in np.split(np.arange(plan.num_prompts), self._blocks.shards)
    ]
    self._tickets = self._entered = 0
    self._is_whole = True
    self.counts = collections.Counter()

  def publish(self, params, *, version: int | None = None):
    """Uses new weights from the next step on.

    version: by default, that of the weights before plus 1.

    Running samples keep the keys and values that the old weights computed,
    unless they are put back later.
    """
    # Free the old weights first, so that old and new never exist at once.
    self._is_whole, was_whole, self._params = False, self._is_whole, None
    self._params = publish(self.decoder, params)
    self._is_whole = was_whole
    self.version = self.version + 1 if version is None else version

  def submit(
    self, request: Request, begun: Mapping[int, np.ndarray] | None = None
  ) -> int:
    """Queues a request; returns the ticket that `step` reports it under.

    begun: the tokens that samples have already, by the number of the sample;
      they are not reported.
    """
    self.plan.check(request)
    request.check_vocabulary(self.decoder.config.vocab_size)
    begun = begun or {}
    # Chunks begin at multiples of their length, so that each is in one block.
    assert all(len(x) % self.plan.chunk == 0 for x in begun.values()), begun
    ticket = self._tickets
    self._tickets += 1
    self._groups[ticket] = [
      make_group(ticket, request, range(first, end), begun)
      for first, end in self._parts(request.samples)
    ]
    self._queue.extend(self._groups[ticket])
    return ticket

  def _parts(self, samples: int) -> Iterator[tuple[int, int]]:
    """(first, end) of each group of a request.

    It is one, unless more may run at once than a shard has slots.
    """
    shards, at_once = self._blocks.shards, min(samples, self.plan.group)
    count = min(shards, -(-at_once * shards // self.plan.slots))
    return itertools.pairwise(samples * i // count for i in range(count + 1))

  def cancel(self, ticket: int, sample: int | None = None):
    """Ends a request or one of its samples; `step` returns no more of it."""
    groups = list(self._groups.get(ticket, ()))
    if not groups:
      return
    request = groups[0].request
    samples = range(request.samples)
    if sample is not None and sample not in samples:
      raise ValueError(
        f'sample {sample} of {request.id}: expected 0 to {len(samples) - 1}.'
      )
    dropped = samples if sample is None else [sample]
    for group in groups:
      group.drop(dropped)
    for slot, row in list(self._by_slot.items()):
      if row.group.ticket == ticket and row.sample in dropped:
        self._table.leave(slot)
        self._end(slot)
    for group in groups:
      if not group.waiting and group in self._queue:
        self._queue.remove(group)
      self._forget_if_done(group)

  @property
  def params(self):
    """The newest weights, in the form that `publish` makes."""
    return self._params

  @property
  def is_idle(self) -> bool:
    return not self._groups

  @property
  def waiting(self) -> int:
    """The number of samples without a slot."""
    return sum(group.waiting for group in self._queue)

  @property
  def running(self) -> int:
    """The number of samples in a slot."""
    return len(self._by_slot)

  def step(self) -> list[tuple[int, int, Completion]]:
    """Decodes a chunk; returns [(ticket, sample, its new tokens), ...].

    The list is in the order of the slots. The last tokens of a completion come
    with a finish reason.
    """
    if not self._is_whole:
      raise RuntimeError(
        'The engine is closed, or an earlier step was interrupted: create a '
        'new one, and submit again what was in this one.'
      )
    # False until the step has ended: an interrupted step may leave slots
    # without their prompts, or NaN in the caches, which masks do not keep out.
    self._is_whole = False
    pieces = self._step()
    self._is_whole = True
    return pieces

  def _step(self) -> list[tuple[int, int, Completion]]:
    self._grow()
    self._admit()
    if not self._by_slot:
      return []
    before_B = self._table.sampled_B.copy()
    slots = self._table.slots(
      self._prefix_length_P, self._readers(), blocks_BM=self._blocks.table(),
      replay_BT=self._replay(),
    )  # fmt: skip
    self._own, report = chunks.decode_chunk(
      self.decoder, self._params, self._prefixes, self._own, slots,
      steps=self.plan.chunk,
    )  # fmt: skip
    pieces = self._table.read(report, self.version)
    self._count(pieces)
    done = []
    for slot, piece in pieces.items():
      row = self._by_slot[slot]
      group, sample = row.group, row.sample
      piece = dataclasses.replace(piece, prompt_version=group.prompt_version)
      if np.isnan(piece.policy_logprobs).any():
        raise nan_error(
          f'request {group.request.id}, sample {sample}',
          f'weights of version {self.version}',
          self.decoder.compute.dtype,
        )
      repeated = max(0, len(row.replay) - int(before_B[slot]))
      self.counts['repeated'] += min(repeated, len(piece.tokens))
      if repeated < len(piece.tokens):
        piece = without_first(piece, repeated)
        row.new.append(piece.tokens)
        done.append((group.ticket, sample, piece))
      if piece.finish_reason:
        self._end(slot)
    return done

  def _count(self, pieces: dict[int, Completion]):
    lengths = [len(piece.tokens) for piece in pieces.values()]
    self.counts['tokens'] += sum(lengths)
    self.counts['steps'] += max(lengths)
    self.counts['row_steps'] += max(lengths) * self.plan.slots

  def close(self):
    """Frees the memory of the devices."""
    self._is_whole = False
    self._params = self._prefixes = self._own = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  # Slots.

  def _admit(self):
    """Assigns the next samples of the queue to free slots, oldest first."""
    free, new, begun = self._free_slots(), [], []
    for group in list(self._queue):
      while group.waiting and group.running < self.plan.group:
        slot = self._pick(free, group)
        if slot is None:
          # Keep the order, or later requests could overtake this one forever.
          for shard in self._shards(group):
            free[shard].clear()
          break
        if group.prefix is None:
          group.shard = self._blocks.shard(slot)
          group.prefix = self._free_prefixes[group.shard].pop(0)
          group.prompt_version = self.version
          new.append(group)
        if self._enter(slot, group):
          begun.append(slot)
      if not any(free):
        break
    self._queue = collections.deque(g for g in self._queue if g.waiting)
    self._prefill(new)
    self._prefill_begun(begun)

  def _free_slots(self) -> list[collections.deque[int]]:
    """The free slots of each shard of the batch."""
    free = [collections.deque() for _ in self._free_prefixes]
    for slot in range(self.plan.slots):
      if slot not in self._by_slot:
        free[self._blocks.shard(slot)].append(slot)
    return free

  def _shards(self, group: Group) -> Sequence[int]:
    """The shards on which the group's samples may sit."""
    if group.shard is None:
      return range(len(self._free_prefixes))
    return [group.shard]

  def _pick(self, free: list[collections.deque[int]], group: Group):
    """Takes the slot for the group's next sample; None if it must wait.

    A new group gets the shard that has slots for most of its samples now; of
    these, the first of those with the most free blocks. A sample that was put
    back waits until there is room for all that it had: with less, it would soon
    be put back again.
    """
    repeated = len(group.tokens(group.next()))
    shards = [
      shard for shard in self._shards(group)
      if (group.prefix is not None or self._free_prefixes[shard])
      and free[shard]
      and self._blocks.admits(free[shard][0], repeated + self.plan.chunk)
    ]  # fmt: skip
    if not shards:
      return None

    def room(shard):
      count = min(len(free[shard]), group.waiting, self.plan.group)
      return count, self._blocks.free(free[shard][0])

    return free[max(shards, key=room)].popleft()

  def _enter(self, slot: int, group: Group) -> bool:
    """Assigns the group's next sample; True if its tokens must be prefilled."""
    sample = group.next()
    had, is_begun = group.tokens(sample), sample in group.begun
    group.drop([sample])
    self._table.enter(slot, group.request, sample, had if is_begun else ())
    self._by_slot[slot] = Row(group, sample, self._entered, had)
    self._entered += 1
    self._blocks.enter(slot, group.request.limits[sample])
    # All blocks that it had, or others would take them before it needs them.
    for _ in range(self._blocks.count(len(had) + self.plan.chunk)):
      self._blocks.grow(slot)
    group.running += 1
    return is_begun

  def _grow(self):
    """Gives each sample, oldest first, the blocks that the next chunk fills."""
    missing_B = self._blocks.missing(self._table.sampled_B + self.plan.chunk)
    short = [slot for slot in self._by_slot if missing_B[slot]]
    for slot in sorted(short, key=lambda slot: self._by_slot[slot].age):
      # A sample may have been put back for the sake of an older one.
      while slot in self._by_slot and not self._blocks.free(slot):
        self._put_back(self._youngest(self._blocks.shard(slot)))
      if slot in self._by_slot:
        self._blocks.grow(slot)

  def _youngest(self, shard: int) -> int:
    slots = (s for s in self._by_slot if self._blocks.shard(s) == shard)
    return max(slots, key=lambda slot: self._by_slot[slot].age)

  def _put_back(self, slot: int):
    row = self._by_slot[slot]
    group = row.group
    group.put_back[row.sample] = np.concatenate([row.replay, *row.new])
    if group not in self._queue:
      self._queue.append(group)
      in_order = sorted(self._queue, key=lambda g: (g.ticket, g.first))
      self._queue = collections.deque(in_order)
    self._table.leave(slot)
    self._end(slot)
    self.counts['put_back'] += 1

  def _replay(self) -> np.ndarray:
    """[slots, chunk]: the tokens that the next chunk repeats, or NO_TOKEN."""
    T = self.plan.chunk
    replay_BT = np.full((self.plan.slots, T), NO_TOKEN, np.int32)
    for slot, row in self._by_slot.items():
      start = self._table.sampled_B[slot]
      tokens = row.replay[start : start + T]
      replay_BT[slot, : len(tokens)] = tokens
    return replay_BT

  def _end(self, slot: int):
    group = self._by_slot.pop(slot).group
    self._blocks.leave(slot)
    group.running -= 1
    self._forget_if_done(group)

  def _forget_if_done(self, group: Group):
    groups = self._groups.get(group.ticket, [])
    # Free the prefix once: a cancelled group comes here twice.
    if group.waiting or group.running or group not in groups:
      return
    groups.remove(group)
    if not groups:
      del self._groups[group.ticket]
    if group.prefix is not None:
      self._free_prefixes[group.shard].append(group.prefix)
      # Our kernels read what is filled, used or not.
      self._prefix_length_P[group.prefix] = 0

  # Prefixes.

  def _prefill(self, groups: list[Group]):
    """Computes keys and values of new groups' prompts, `_prefill_rows` at once.

    The number of rows is fixed and the padded length depends on the prompt
    alone, so a prompt's prefix is the same to the last bit in any batch.
    """
    rows = self._prefill_rows()
    by_length = collections.defaultdict(list)
    for group in groups:
      length = len(group.request.prompt_tokens) - 1
      self._prefix_length_P[group.prefix] = length
      S = min(bucket(length), self.plan.prefix_length)
      by_length[S].append(group)
    for S, same in by_length.items():
      for first in range(0, len(same), rows):
        some = same[first : first + rows]
        prompts = [group.request.prompt_tokens[:-1] for group in some]
        tokens_PS, segments_PS = pad_prompts(prompts, rows, S)
        # Rows of padding have an index out of range and are dropped.
        rows_P = np.full(rows, self.plan.num_prompts, np.int32)
        rows_P[: len(some)] = [group.prefix for group in some]
        self._prefixes = chunks.prefill_into(
          self.decoder, self._params, self._prefixes, tokens_PS, segments_PS,
          rows_P,
        )  # fmt: skip
        self.counts['prompt_tokens'] += int(segments_PS.sum())
        self.counts['prompt_positions'] += segments_PS.size

  def _prefill_begun(self, slots: Sequence[int]):
    """Computes keys and values of tokens that samples came with."""
    rows = []
    for slot in slots:
      row = self._by_slot[slot]
      prefix, prompt = row.group.prefix, row.group.request.prompt_tokens
      inputs = np.array([prompt[-1], *row.replay[:-1]], np.int32)
      rows.append(Begun(slot, prefix, self._prefix_length_P[prefix], inputs))
    self._own, computed = begun_lib.prefill(
      self.decoder, self._params, self._prefixes, self._own, rows, self._blocks
    )
    self.counts['begun_tokens'] += sum(len(row.inputs) for row in rows)
    self.counts['begun_positions'] += computed

  def _prefill_rows(self) -> int:
    return self.decoder.layout.batch_size

  def _readers(self) -> Readers:
    """The mapping between slots and prefixes, for the devices."""
    Q, G = self.plan.num_prompts, self.plan.group
    rows_PG = np.zeros((Q, G), np.int32)
    place_B = np.zeros(self.plan.slots, np.int32)
    taken = [0] * Q
    for slot, row in sorted(self._by_slot.items()):
      p = row.group.prefix
      rows_PG[p, taken[p]] = slot
      place_B[slot] = p * G + taken[p]
      taken[p] += 1
    return Readers(rows_PG, place_B)
