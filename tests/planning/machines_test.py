import math

import pytest

from rlpt_jax.planning import machines


@pytest.mark.parametrize(
  ('name', 'chips', 'topology', 'platform', 'gb'),
  [
    ('tpu:v5e:8x8', 64, 'v5e:8x8', 'tpu', 16),
    ('tpu:v5p:2x2x4', 16, 'v5p:2x2x4', 'tpu', 95),  # v5p-32: 32 cores.
    ('tpu:v6e:4x4', 16, 'v6e:4x4', 'tpu', 32),
    ('a100:4', 4, '1x4', 'gpu', 80),
    ('h100:8', 8, '1x8', 'gpu', 80),
    ('h100:16', 16, '2x8', 'gpu', 80),
    ('h200:1', 1, '1x1', 'gpu', 141),
    ('cpu:1', 1, '1', 'cpu', 16),
  ],
)
def test_names(name, chips, topology, platform, gb):
  machine = machines.parse(name)
  assert (machine.chips, machine.topology) == (chips, topology)
  assert (machine.platform, machine.memory) == (platform, gb * 10**9)
  assert str(machine) == name


@pytest.mark.parametrize(
  ('name', 'error'),
  [
    ('v5e:8x8', "chips 'v5e:8x8': expected one of tpu:v5e, .* cpu, and how"),
    ('tpu:h100:8', "chips 'tpu:h100:8': expected one of"),
    ('b100:8', "chips 'b100:8': expected one of"),
    ('', "chips '': expected one of"),
    ('h100', "chips 'h100': how many"),
    ('h100:0', "chips 'h100:0': how many"),
    ('h100:-8', 'how many'),
    ('tpu:v5e:8xx8', 'how many'),
    ('tpu:v5e:64', '64 has 1 sizes, but v5e has 2: expected .* 2x4'),
    ('tpu:v5p:4x4', '4x4 has 2 sizes, but v5p has 3: expected .* 2x4x8'),
    ('h100:2x8', '2x8 has 2 sizes'),
    ('h100:12', 'at most 8 GPUs, or a multiple of 8'),
    ('h100:9', 'at most 8 GPUs'),
  ],
)
def test_other_names(name, error):
  with pytest.raises(ValueError, match=error) as raised:
    machines.parse(name)
  assert '\n' not in str(raised.value)


def test_rates_are_those_of_chips():
  for name, chip in machines.CHIPS.items():
    if chip.platform == 'cpu':
      assert (chip.flops, chip.bandwidth, chip.links) == (None,) * 3
      continue
    # A product of bfloat16 is bound by memory below some hundred FLOPs a byte.
    assert 100 < chip.flops / chip.bandwidth < 600, name
    assert chip.links < chip.bandwidth, name


def test_links_between_hosts_are_unknown():
  assert machines.parse('h100:8').links == 450e9
  assert machines.parse('h100:16').links is None
  assert machines.parse('tpu:v5e:16x16').links == 200e9


def test_a_machine_multiplies_its_shape():
  assert machines.Machine('v5p', (2, 2, 4)).chips == math.prod((2, 2, 4))
