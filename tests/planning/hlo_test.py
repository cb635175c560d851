"""Reading HLO: a small program by hand, and one that XLA compiles here."""

import jax
import jax.numpy as jnp
import pytest

from rlpt_jax.planning import hlo

# A loop of unknown length that updates a cache of 4 x 64 in place, reads one
# row of it, copies it, and adds up 8 numbers over chips in a loop of 3.
TEXT = """HloModule step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%fused_update (p0: bf16[4,64], p1: bf16[1,64], p2: s32[]) -> bf16[4,64] {
  %p0 = bf16[4,64]{1,0} parameter(0)
  %p1 = bf16[1,64]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %dus = bf16[4,64]{1,0} dynamic-update-slice(%p0, %p1, %p2, %zero)
}

%fused_read (q0: bf16[4,64], q1: s32[]) -> f32[1,64] {
  %q0 = bf16[4,64]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %null = s32[] constant(0)
  %ds = bf16[1,64]{1,0} dynamic-slice(%q0, %q1, %null), dynamic_slice_sizes={1,64}
  ROOT %cast = f32[1,64]{1,0} convert(%ds)
}

%inner (i: (s32[], f32[8])) -> (s32[], f32[8]) {
  %i = (s32[], f32[8]) parameter(0)
  %n = s32[] get-tuple-element(%i), index=0
  %x = f32[8]{0} get-tuple-element(%i), index=1
  %ar = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%sum
  ROOT %out = (s32[], f32[8]) tuple(%n, %ar)
}

%short (i: (s32[], f32[8])) -> pred[] {
  %i = (s32[], f32[8]) parameter(0)
  ROOT %t = pred[] constant(true)
}

%body (c: (s32[], bf16[4,64], bf16[1,64], f32[8])) -> (s32[], bf16[4,64], bf16[1,64], f32[8]) {
  %c = (s32[], bf16[4,64], bf16[1,64], f32[8]) parameter(0)
  %k = s32[] get-tuple-element(%c), index=0
  %cache = bf16[4,64]{1,0} get-tuple-element(%c), index=1
  %new = bf16[1,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%c), index=2
  %y = f32[8]{0} get-tuple-element(%c), index=3
  %fusion.1 = bf16[4,64]{1,0:T(8,128)(2,1)} fusion(%cache, %new, %k), kind=kLoop, calls=%fused_update
  %fusion.2 = f32[1,64]{1,0} fusion(%fusion.1, %k), kind=kLoop, calls=%fused_read
  %copy.1 = bf16[4,64]{0,1} copy(%fusion.1)
  %start = (s32[], f32[8]) tuple(%k, %y)
  %loop = (s32[], f32[8]) while(%start), condition=%short, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %z = f32[8]{0} get-tuple-element(%loop), index=1
  ROOT %next = (s32[], bf16[4,64], bf16[1,64], f32[8]) tuple(%k, %fusion.1, %new, %z)
}

%more (c: (s32[], bf16[4,64], bf16[1,64], f32[8])) -> pred[] {
  %c = (s32[], bf16[4,64], bf16[1,64], f32[8]) parameter(0)
  ROOT %u = pred[] constant(true)
}

ENTRY %main (c: (s32[], bf16[4,64], bf16[1,64], f32[8])) -> (s32[], bf16[4,64], bf16[1,64], f32[8]) {
  %c = (s32[], bf16[4,64], bf16[1,64], f32[8]) parameter(0)
  ROOT %decode = (s32[], bf16[4,64], bf16[1,64], f32[8]) while(%c), condition=%more, body=%body
}
"""  # noqa: E501


@pytest.fixture
def program():
  return hlo.parse(TEXT)


def test_loops_and_collectives(program):
  assert program.decode_loop() == 'body'
  assert hlo.collectives(program) == {'all-reduce': (3, 3 * 8 * 4)}


def test_a_loop_that_counts_says_how_often_it_runs():
  text = TEXT.replace(', backend_config={"known_trip_count":{"n":"3"}}', '')
  # From 1 by 2 while less than 6, as TPUs' compiler writes it: 1, 3, 5.
  for old, new in (
    ('%start = (s32[], f32[8]) tuple(%k, %y)',
     '%one = s32[] constant(1)\n  %first = s32[]{:T(128)} copy(%one)\n  '
     '%start = (s32[], f32[8]) tuple(%first, %y)'),
    ('ROOT %t = pred[] constant(true)',
     '%six = s32[] constant(6)\n  '
     '%m = s32[] get-tuple-element(%i), index=0\n  '
     'ROOT %t = pred[] compare(%m, %six), direction=LT'),
    ('ROOT %out = (s32[], f32[8]) tuple(%n, %ar)',
     '%two = s32[] constant(2)\n  %more = s32[] add(%n, %two)\n  '
     'ROOT %out = (s32[], f32[8]) tuple(%more, %ar)'),
  ):  # fmt: skip
    assert text.count(old) == 1
    text = text.replace(old, new)
  program = hlo.parse(text)
  assert hlo.collectives(program) == {'all-reduce': (3, 3 * 8 * 4)}
  assert [x.name for x in program.loops()] == ['decode']
  # Elsewhere, only the run knows.
  for old, new in (
    ('copy(%one)', 'copy(%k)'), ('add(%n, %two)', 'multiply(%n, %two)'),
    ('direction=LT', 'direction=NE'), ('compare(%m, %six)', 'not(%m)'),
  ):  # fmt: skip
    program = hlo.parse(text.replace(old, new))
    assert [x.name for x in program.loops()] == ['decode', 'loop'], new
    assert hlo.collectives(program) == {'all-reduce': (1, 8 * 4)}


def test_copies_are_found_but_no_updates_in_place(program):
  found = hlo.copies(program, lambda array: array.size == 4 * 64)
  assert [(name, str(array)) for name, array in found] == [
    ('copy.1', 'bf16[4,64]')
  ]


def test_the_bytes_of_a_step(program):
  # The update writes a row, and its own input is on the chip. The reading has
  # a row of bfloat16 and writes it in float32. The index is read twice.
  expected = (64 * 2 + 4) + (64 * 2 + 4 + 64 * 4)
  # The copy, and three sums of 8 numbers.
  expected += 2 * 4 * 64 * 2 + 3 * 2 * 8 * 4
  assert hlo.step_bytes(program, 'body') == expected


def test_what_moves_to_fast_memory_is_read_and_not_copied(program):
  text = TEXT.replace(
    '%copy.1 = bf16[4,64]{0,1} copy(%fusion.1)',
    '%copy.1 = (bf16[4,64]{1,0}, bf16[2,64]{1,0:S(1)}, s32[]{:S(2)}) '
    'slice-start(%fusion.1), slice={[0:2], [0:64]}',
  )
  moved = hlo.parse(text)
  assert not hlo.copies(moved, lambda array: array.size >= 2 * 64)
  copied, found = (hlo.step_bytes(x, 'body') for x in (program, moved))
  assert copied - found == 2 * 4 * 64 * 2 - 2 * 64 * 2


def test_a_kernel_says_what_it_reads():
  text = TEXT.replace(
    '%copy.1 = bf16[4,64]{0,1} copy(%fusion.1)',
    '%copy.1 = bf16[4,64]{0,1} custom-call(%fusion.1), '
    'custom_call_target="kernel"',
  )
  program, seen = hlo.parse(text), []

  def kernel(instruction, arrays):
    seen.append((instruction.name, [str(array) for array in arrays]))
    return 1000

  plain = hlo.step_bytes(program, 'body')
  found = hlo.step_bytes(program, 'body', kernel)
  assert plain - found == 2 * 4 * 64 * 2 - 1000
  assert seen == [('copy.1', ['bf16[4,64]'])]


def test_the_workspace_of_a_product_is_not_counted():
  text = TEXT.replace(
    '%copy.1 = bf16[4,64]{0,1} copy(%fusion.1)',
    '%copy.1 = (bf16[4,64]{0,1}, s8[4096]{0}) custom-call(%fusion.1), '
    'custom_call_target="__cublas$gemm"',
  )
  plain, product = (hlo.parse(x) for x in (TEXT, text))
  assert hlo.step_bytes(product, 'body') == hlo.step_bytes(plain, 'body')


def test_a_program_of_xla():
  def step(state):
    i, cache_BT, x_B = state
    cache_BT = jax.lax.dynamic_update_slice(cache_BT, x_B[:, None], (0, i))
    return i + 1, cache_BT, x_B + cache_BT.sum(1)

  run = jax.jit(
    lambda *state: jax.lax.while_loop(lambda s: s[2][0] < s[0], step, state),
    donate_argnums=1,
  )
  shapes = jnp.int32(0), jnp.zeros((128, 256)), jnp.zeros(128)
  program = hlo.parse(run.lower(*shapes).compile().as_text())
  assert not hlo.copies(program, lambda array: array.size == 128 * 256)
  found = hlo.step_bytes(program, program.decode_loop())
  assert 1 < found / (128 * 256 * 4) < 1.1


def test_no_program():
  with pytest.raises(ValueError, match='no entry computation'):
    hlo.parse('')
