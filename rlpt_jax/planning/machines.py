"""Machines as their data sheets describe them, by names such as tpu:v5e:8x8.

Rates are peaks that no program reaches: costs.py takes a share of them.
"""

import dataclasses
import math
import re
from typing import Literal

Platform = Literal['tpu', 'gpu', 'cpu']
EXAMPLES = 'tpu:v5e:8x8, tpu:v5p:2x2x4, h100:8, h200:1 or cpu:1'
# A server with NVLink between all of its GPUs.
GPUS_OF_A_HOST = 8
GB = 10**9
TERA = 10**12


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip, from its data sheet; None is a rate that it does not give.

  memory: bytes.
  flops: dense bfloat16 FLOPs in a second, without sparsity.
  bandwidth: bytes of its memory in a second.
  links: bytes that it sends to other chips in a second, and as many that it
    receives: half of what data sheets state, which add both directions.
  dimensions: of a TPU's topology.
  """

  platform: Platform
  memory: int
  flops: float | None
  bandwidth: float | None
  links: float | None
  dimensions: int = 1


# TPUs: docs.cloud.google.com/tpu/docs, a page for each (v5e, v5p, v6e); v5p has
# 95 GiB there and 95 GB elsewhere, and we take the smaller.
# GPUs: NVIDIA's data sheets of the SXM modules: "A100 80GB SXM" (June 2021),
# "H100 SXM" and "H200 SXM" (their sparse FLOPs, halved).
# A CPU has no rates here, and the memory of a usual laptop.
CHIPS = {
  'v5e': Chip('tpu', 16 * GB, 197 * TERA, 819 * GB, 200 * GB, 2),
  'v5p': Chip('tpu', 95 * GB, 459 * TERA, 2765 * GB, 600 * GB, 3),
  'v6e': Chip('tpu', 32 * GB, 918 * TERA, 1638 * GB, 400 * GB, 2),
  'a100': Chip('gpu', 80 * GB, 312 * TERA, 2039 * GB, 300 * GB),
  'h100': Chip('gpu', 80 * GB, 989 * TERA, 3350 * GB, 450 * GB),
  'h200': Chip('gpu', 141 * GB, 989 * TERA, 4800 * GB, 450 * GB),
  'cpu': Chip('cpu', 16 * GB, None, None, None),
}


@dataclasses.dataclass(frozen=True)
class Machine:
  """Equal chips that make one run.

  shape: of a TPU's topology, (8, 8); of GPUs, hosts and the GPUs of each.
  """

  kind: str
  shape: tuple[int, ...]

  @property
  def chip(self) -> Chip:
    return CHIPS[self.kind]

  @property
  def platform(self) -> Platform:
    return self.chip.platform

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def memory(self) -> int:
    """The bytes of a chip."""
    return self.chip.memory

  @property
  def flops(self) -> float | None:
    """The peak of a chip in bfloat16, in FLOPs a second; None if unknown."""
    return self.chip.flops

  @property
  def bandwidth(self) -> float | None:
    """The bytes of memory that a chip reads in a second; None if unknown."""
    return self.chip.bandwidth

  @property
  def links(self) -> float | None:
    """The bytes that a chip receives from others in a second.

    None if unknown: GPUs of several hosts share networks of any speed.
    """
    if self.platform == 'gpu' and self.shape[0] > 1:
      return None
    return self.chip.links

  @property
  def topology(self) -> str:
    """The name that a compiler has for the chips: 'v5e:8x8'; GPUs: '1x8'."""
    shape = 'x'.join(map(str, self.shape))
    return f'{self.kind}:{shape}' if self.platform == 'tpu' else shape

  def __str__(self):
    if self.platform == 'tpu':
      return f'tpu:{self.topology}'
    return f'{self.kind}:{self.chips}'


@dataclasses.dataclass(frozen=True)
class Here:
  """The devices of a run that starts; their rates are not needed.

  memory: bytes of each.
  """

  chips: int
  platform: Platform
  memory: int
  kind = 'here'
  flops = bandwidth = links = None


def parse(chips: str) -> Machine:
  """Returns the machine that a name such as 'tpu:v5e:8x8' or 'h100:8' means."""
  kind, _, shape = chips.removeprefix('tpu:').partition(':')
  chip = CHIPS.get(kind)
  if chip is None or (chip.platform == 'tpu') != chips.startswith('tpu:'):
    known = ', '.join(
      f'tpu:{name}' if chip.platform == 'tpu' else name
      for name, chip in CHIPS.items()
    )
    raise ValueError(
      f'chips {chips!r}: expected one of {known}, and how many: {EXAMPLES}.'
    )
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', shape):
    raise ValueError(f'chips {chips!r}: how many? Expected {EXAMPLES}.')
  sizes = tuple(map(int, shape.split('x')))
  if len(sizes) != chip.dimensions:
    expected = 'x'.join('248'[: chip.dimensions])
    raise ValueError(
      f'chips {chips!r}: {shape} has {len(sizes)} sizes, but {kind} has '
      f'{chip.dimensions}: expected a number like {expected}.'
    )
  if chip.platform != 'gpu':
    return Machine(kind, sizes)
  (count,) = sizes
  if count > GPUS_OF_A_HOST and count % GPUS_OF_A_HOST:
    raise ValueError(
      f'chips {chips!r}: expected at most {GPUS_OF_A_HOST} GPUs, or a multiple '
      f'of {GPUS_OF_A_HOST}, the GPUs of a host.'
    )
  of_a_host = min(count, GPUS_OF_A_HOST)
  return Machine(kind, (count // of_a_host, of_a_host))
