"""Reads what a compiler made of a program: the text of its optimized HLO.

The text lists computations; an instruction of one may call others. The first
level of a computation is what runs: an instruction reads its operands from
memory and writes its result. What a fusion computes inside stays on the chip.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

COLLECTIVES = (
  'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
  'collective-permute',
)  # fmt: skip
# These move no bytes: they name, group or wait for arrays.
FREE = {
  'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant', 'iota',
  'after-all', 'partition-id', 'replica-id', 'optimization-barrier',
  'async-update',
}  # fmt: skip
SLICES = {'dynamic-slice', 'slice', 'gather'}
# Both write into their first operand, if nothing else reads it.
IN_PLACE = {'dynamic-update-slice', 'scatter'}
SAME = {'bitcast', 'convert', 'copy', 'reshape'}
LOOP = 'while'

INSTRUCTION = re.compile(
  r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$'
)
HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
ARRAY = re.compile(r'\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
CALLED = re.compile(
  r'\b(calls|to_apply|body|condition|true_computation|false_computation|'
  r'branch_computations)=(\{[^}]*\}|%?[\w.\-]+)'
)
INDEX = re.compile(r'\bindex=(\d+)')
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
  dtype: str
  shape: tuple[int, ...]
  on_chip: bool = False  # In fast memory, such as the VMEM of a TPU.

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def num_bytes(self) -> int:
    bits = re.search(r'\d+', self.dtype)
    return math.ceil(self.size * (int(bits[0]) if bits else 8) / 8)

  def __str__(self):
    return f'{self.dtype}[{",".join(map(str, self.shape))}]'


@dataclasses.dataclass(frozen=True)
class Instruction:
  name: str
  opcode: str
  arrays: tuple[Array, ...]  # Its result; several if that is a tuple.
  operands: tuple[str, ...]
  is_root: bool
  rest: str  # What follows the opcode.

  @functools.cached_property
  def called(self) -> dict[str, list[str]]:
    """The computations that it calls: attribute -> names."""
    return {
      name: re.findall(r'[\w.\-]+', value)
      for name, value in CALLED.findall(self.rest)
    }

  @property
  def num_bytes(self) -> int:
    """The bytes of its result in main memory."""
    return sum(x.num_bytes for x in self.arrays if not x.on_chip)


@dataclasses.dataclass(frozen=True)
class Program:
  computations: dict[str, dict[str, Instruction]]
  entry: str

  def reached(self, name: str, times: int = 1) -> Iterator[tuple]:
    """Yields (instruction, its computation, how often it runs) from `name` on.

    Steps into loops, branches and calls, not into fusions. A loop whose length
    only the run decides counts once, as do all branches.
    """
    for instruction in self.computations[name].values():
      yield instruction, name, times
      inner = times
      if instruction.opcode == LOOP:
        inner = times * (self.times(name, instruction) or 1)
      for attribute, names in instruction.called.items():
        if attribute == 'to_apply' and instruction.opcode != 'call':
          continue  # What a reduction or a scatter does to two numbers.
        if instruction.opcode != 'fusion':
          for each in names:
            yield from self.reached(each, inner)

  def loops(self) -> list[Instruction]:
    """The loops whose length only the run decides, such as that of decoding."""
    return [
      x for x, name, _ in self.reached(self.entry)
      if x.opcode == LOOP and self.times(name, x) is None
    ]  # fmt: skip

  def times(self, computation: str, loop: Instruction) -> int | None:
    """Returns how often a loop of a computation runs; None if the run decides.

    The compiler for GPUs says it. That for TPUs does not, but its loops count
    from a number to a number, which the condition and the body show.
    """
    if found := TRIPS.search(loop.rest):
      return int(found[1])
    condition, body = (
      self.computations[loop.called[name][0]] for name in ('condition', 'body')
    )
    compared = _root(condition)
    if compared.opcode != 'compare' or 'direction=LT' not in compared.rest:
      return None
    counter, limit = compared.operands
    found = INDEX.search(condition[counter].rest)
    if not found:
      return None
    place, here = int(found[1]), self.computations[computation]
    before, after = here[loop.operands[0]], _root(body)
    if before.opcode != 'tuple' or after.opcode != 'tuple':
      return None
    next_ = body[after.operands[place]]
    if next_.opcode != 'add':
      return None
    start, step = here[before.operands[place]], body[next_.operands[1]]
    numbers = [
      _number(inside, x)
      for inside, x in (
        (here, start), (condition, condition[limit]), (body, step)
      )
    ]  # fmt: skip
    if None in numbers:
      return None
    start, end, step = numbers
    return max(0, -(-(end - start) // step)) if step > 0 else None

  def decode_loop(self) -> str:
    """Returns the computation of one step of decoding."""
    loops = self.loops()
    if not loops:
      raise ValueError('the program has no loop of unknown length.')
    # The outermost is reached first; top-p filters may have loops inside.
    return loops[0].called['body'][0]

  def fused(self, instruction: Instruction) -> dict[str, Instruction]:
    (name,) = instruction.called['calls']
    return self.computations[name]


def parse(text: str) -> Program:
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    if head := HEAD.match(line):
      current = computations.setdefault(head[2], {})
      entry = head[2] if head[1] else entry
    elif current is not None and (found := INSTRUCTION.match(line)):
      root, name, kind, opcode, rest = found.groups()
      arrays = tuple(
        Array(
          dtype, tuple(int(size) for size in sizes.split(',') if size),
          bool(re.search(r'S\([1-9]', layout or '')),
        )
        for dtype, sizes, layout in ARRAY.findall(kind)
        if dtype != 'token'
      )  # fmt: skip
      if '"__cublas$' in rest:
        arrays = arrays[:1]  # The rest is room that the product may use.
      current[name] = Instruction(
        name, opcode, arrays, _operands(rest), bool(root), rest
      )
  if entry is None:
    raise ValueError('no entry computation: expected the text of an HLO module')
  return Program(computations, entry)


def _root(computation: dict[str, Instruction]) -> Instruction:
  (root,) = (x for x in computation.values() if x.is_root)
  return root


def _number(here: dict[str, Instruction], x: Instruction) -> int | None:
  """Returns the value of an integer constant; None if x is none."""
  x = _source(here, x)
  if x.opcode != 'constant':
    return None
  return int(x.rest.split(')')[0])


def _operands(rest: str) -> tuple[str, ...]:
  depth, end = 1, 0
  while depth and end < len(rest):
    depth += (rest[end] in '({[') - (rest[end] in ')}]')
    end += 1
  return tuple(re.findall(r'%([\w.\-]+)', rest[:end]))


def collectives(program: Program) -> dict[str, tuple[int, int]]:
  """Returns {kind: (how many run, bytes of their results)}.

  Loops count as often as they run; one of unknown length counts once.
  """
  found = collections.defaultdict(lambda: (0, 0))
  for x, computation, times in program.reached(program.entry):
    kind = x.opcode.removesuffix('-start')
    if kind in COLLECTIVES:
      size = _size_of(_written(program.computations[computation], x))
      count, total = found[kind]
      found[kind] = count + times, total + times * size
  return dict(found)


def copies(
  program: Program, is_cache: Callable[[Array], bool]
) -> list[tuple[str, Array]]:
  """Returns instructions that write an array anew for which `is_cache` is True.

  Updates in place, loops and parameters write no new array. Nor does what moves
  an array to fast memory.
  """
  found = []
  for x, computation, _ in program.reached(program.entry):
    if x.opcode in FREE | {LOOP, 'conditional', 'call'}:
      continue
    if x.opcode.endswith('-done') or _is_in_place(program, computation, x):
      continue
    found += [
      (x.name, array)
      for array in _written(program.computations[computation], x)
      if not array.on_chip and is_cache(array)
    ]
  return found


def _written(here: dict[str, Instruction], x: Instruction) -> tuple[Array, ...]:
  """Returns the arrays of a result, without the operands that starts list."""
  if x.opcode == 'copy-start':  # (copy, original, context)
    return x.arrays[:1]
  if x.opcode.endswith('-start') and x.opcode != 'all-reduce-start':
    first = sum(len(here[name].arrays) for name in x.operands)
    # (operands, results, numbers that the end waits for)
    return tuple(array for array in x.arrays[first:] if array.shape)
  return x.arrays


def _is_in_place(program: Program, computation: str, x: Instruction) -> bool:
  if x.opcode in IN_PLACE:
    return True
  if x.opcode == 'custom-call':
    return 'output_to_operand_aliasing' in x.rest
  if x.opcode != 'fusion':
    return False
  inside = program.fused(x)
  root = _root(inside)
  roots = [root]
  if root.opcode == 'tuple':
    roots = [inside[name] for name in root.operands]
  return any(_source(inside, y).opcode in IN_PLACE for y in roots)


def _source(inside: dict[str, Instruction], x: Instruction) -> Instruction:
  while x.opcode in SAME:
    x = inside[x.operands[0]]
  return x


def step_bytes(
  program: Program,
  computation: str,
  kernel: Callable[[Instruction, list[Array]], int] | None = None,
) -> int:
  """Returns the bytes that a computation reads and writes in main memory.

  Slices count as what is cut out, updates in place as what is written. Of the
  branches of a conditional, the one that moves the least counts: decoding has
  branches for filters that are off.

  kernel: returns the bytes of a custom call, from it and its operands; HLO does
    not show what it reads. By default, all of its operands and results.
  """
  here, total = program.computations[computation], 0
  of = functools.partial(step_bytes, program, kernel=kernel)
  for x in here.values():
    if x.opcode in FREE or x.opcode.endswith('-done'):
      continue
    if x.opcode == LOOP:
      total += (program.times(computation, x) or 1) * of(x.called['body'][0])
    elif x.opcode == 'conditional':
      total += min(of(name) for names in x.called.values() for name in names)
    elif x.opcode in ('call', 'async-start'):
      total += sum(of(name) for names in x.called.values() for name in names)
    elif x.opcode == 'fusion':
      total += _bytes_of_fusion(program, here, x)
    elif x.opcode == 'custom-call' and kernel:
      arrays = [a for name in x.operands for a in here[name].arrays]
      total += kernel(x, arrays)
    else:
      total += _bytes_of_one(here, x)
  return total


def _bytes_of_one(here: dict[str, Instruction], x: Instruction) -> int:
  if x.opcode in SLICES:
    return 2 * x.num_bytes
  if x.opcode == 'dynamic-update-slice':
    return 2 * here[x.operands[1]].num_bytes
  if x.opcode == 'scatter':  # (arrays, indices, updates)
    return 2 * here[x.operands[-1]].num_bytes
  written = sum(a.num_bytes for a in _written(here, x) if not a.on_chip)
  if x.opcode == 'slice-start':
    return written + _size_of(_written(here, x))
  return written + sum(here[name].num_bytes for name in x.operands)


def _bytes_of_fusion(program, here, x: Instruction) -> int:
  inside = program.fused(x)
  users = collections.defaultdict(list)
  for y in inside.values():
    for place, name in enumerate(y.operands):
      users[name].append((y, place))

  def uses(name):
    """Yields the uses of an array, looking through what changes no byte."""
    for y, place in users[name]:
      if y.opcode == 'bitcast':
        yield from uses(y.name)
      else:
        yield y, place

  total = 0
  for y in inside.values():
    if y.opcode == 'parameter':
      operand = here[x.operands[int(y.rest.split(')')[0])]]
      if not operand.num_bytes:
        continue  # In fast memory, or empty.
      found = list(uses(y.name))
      if found and all(z.opcode in SLICES and not i for z, i in found):
        total += sum(_size(z) for z, _ in found)
      elif found and all(z.opcode in IN_PLACE and not i for z, i in found):
        continue
      else:
        total += operand.num_bytes
    if y.is_root:
      roots = [y]
      if y.opcode == 'tuple':
        roots = [inside[name] for name in y.operands]
      for root, array in zip(roots, x.arrays, strict=False):
        source = _source(inside, root)
        if array.on_chip:
          continue
        if source.opcode in IN_PLACE:
          place = 1 if source.opcode == 'dynamic-update-slice' else -1
          total += _size(inside[source.operands[place]])
        else:
          total += array.num_bytes
  return total


def _size(x: Instruction) -> int:
  return _size_of(x.arrays)


def _size_of(arrays: tuple[Array, ...]) -> int:
  return sum(array.num_bytes for array in arrays)
