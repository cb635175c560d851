"""The static sampler: all groups start together and run until all rows end.

It is simple, and tests compare the engine with it. Shapes are rounded up to a
few sizes (buckets), so that batches of similar size share compiled programs.
"""

import numpy as np

from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling import caches, chunks
from rlpt_jax.sampling.requests import Completion, Request, join
from rlpt_jax.sampling.table import SIZES, Sizes, Table

CHUNK = 32


def sample(
  decoder: Decoder, params, requests: list[Request], *, sizes: Sizes = SIZES
) -> list[list[Completion]]:
  """The completions of each request; all requests must have equal `samples`.

  params: from `publish.publish`.
  """
  if not requests:
    return []
  G = requests[0].samples
  for request in requests:
    sizes.check(request)
    request.check_vocabulary(decoder.config.vocab_size)
    if request.samples != G:
      raise ValueError(
        f'request {request.id}: {request.samples} samples, but the batch has '
        f'{G}: expected groups of equal size. Use the engine for groups of '
        'any size.'
      )
  P = bucket(len(requests), least=1)
  S = bucket(max(len(request.prompt_tokens) for request in requests) - 1)
  T = bucket(max(max(request.limits) for request in requests))
  T = -(-T // CHUNK) * CHUNK

  tokens_PS, segments_PS = pad_prompts(
    [request.prompt_tokens[:-1] for request in requests], P, S
  )
  dtype = decoder.compute.dtype
  prefixes = chunks.prefill(
    decoder, params, tokens_PS, segments_PS, dtype=dtype
  )
  own = caches.empty(decoder, P * G, T, dtype)
  table = Table(P * G, sizes)
  for p, request in enumerate(requests):
    for g in range(G):
      table.enter(p * G + g, request, g)
  pieces = [[] for _ in range(len(requests) * G)]
  while table.running_B.any():
    slots = table.slots(segments_PS.sum(1), readers=None)
    own, report = chunks.decode_chunk(
      decoder, params, prefixes, own, slots, steps=CHUNK
    )
    for slot, piece in table.read(report, version=0).items():
      pieces[slot].append(piece)
  done = [join(row) for row in pieces]
  return [done[p * G : (p + 1) * G] for p in range(len(requests))]


def bucket(size: int, *, least: int = 16) -> int:
  """Rounds up to 1, 2, 3, 4, 6, 8, 12, ..., 96, 128, 256, 384, 512, 768, ...

  At most a third is padding, except for 129 to 170, because 192 is skipped:
  large buckets must be multiples of 128, the block size of attention kernels.

  least: the smallest bucket to use.
  """
  power = 1 << max(size - 1, 0).bit_length()
  size = power * 3 // 4 if size <= power * 3 // 4 else power
  return max(least, 256 if size == 192 else size)


def pad_prompts(prompts, rows: int, length: int):
  """(tokens, segments), [rows, length] each, padded on the right."""
  tokens_PS, segments_PS = np.zeros((2, rows, length), np.int32)
  for p, prompt in enumerate(prompts):
    tokens_PS[p, : len(prompt)] = prompt
    segments_PS[p, : len(prompt)] = 1
  return tokens_PS, segments_PS
