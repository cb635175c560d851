r"""What a policy may write, by the thousand, and no run is stopped by it."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest

from rlpt_jax.core import settings
from rlpt_jax.rewards import extract, math_verifier
from rlpt_jax.rewards.math_verifier import MAX_CHARACTERS, MathVerifier
from tests.rewards.math_worker_test import SLOW, busy
from tests.rewards.process_pool_test import children, wait_until
from tests.rewards.scores_test import example

NAN = np.nan


@pytest.fixture(scope='module')
def verifier():
  with MathVerifier(num_workers=2, cpu_seconds=0.5, memory_mb=512) as found:
    yield found


def boxed(*answers):
  return [rf'so \boxed{{{answer}}}.' for answer in answers]


def test_the_reward(verifier):
  found = verifier(
    [example('42'), example(r'\frac12'), example('no \\frac{'), example()],
    [
      boxed('42', '43', '42.0'),
      boxed('0.5', r'\frac{', SLOW),
      boxed('1', '2', '') ,
      ['1', r'<think>\boxed{1}', *boxed('1')],
    ],
  )  # fmt: skip
  np.testing.assert_array_equal(
    found.rewards_PG, [[1, 0, 1], [1, 0, 0], [NAN, NAN, 0], [0, 0, NAN]]
  )
  assert found.rewards_PG.dtype == np.float32
  assert found.reasons_PG.tolist() == [
    ['right', 'wrong', 'right'],
    ['right', 'format/open', 'timeout'],
    ['gold/unparsable', 'gold/unparsable', 'format/empty'],
    ['format/missing', 'format/thinking', 'gold/unparsable'],
  ]


@pytest.mark.parametrize(
  'reason, reward',
  [
    ('right', 1), ('wrong', 0), ('unparsable', 0), ('long', 0), ('timeout', 0),
    ('memory', 0), ('crash', 0), ('format/open', 0), ('gold/unparsable', NAN),
    ('gold/timeout', NAN), ('killed', NAN), ('stalled', NAN), ('lost', NAN),
  ],
)  # fmt: skip
def test_who_caused_it(reason, reward):
  np.testing.assert_equal(math_verifier._reward(reason), reward)


def test_a_gold_that_takes_for_ever_is_no_fault_of_the_answer(verifier):
  assert verifier.compare([(SLOW, '5'), (SLOW, SLOW), ('5', SLOW)]) == [
    'gold/timeout', 'gold/timeout', 'timeout',
  ]  # fmt: skip


def test_what_is_long_is_not_looked_at(verifier):
  most = '1' * MAX_CHARACTERS
  assert verifier.compare(
    [(most, most), ('5', most + '1'), (most + '1', '5'), ('5', '5')]
  ) == ['right', 'long', 'gold/long', 'right']
  # Twelve bytes each in JSON, and still they fit into a pipe.
  wide = '\U0001f600' * MAX_CHARACTERS
  (reason,) = verifier.compare([(wide, wide)])
  assert reason.startswith('gold/')


def test_a_group_that_says_the_same_is_asked_once(verifier, monkeypatch):
  asked = []
  real = verifier._pool.map
  monkeypatch.setattr(
    verifier._pool, 'map', lambda r: asked.append(len(r)) or real(r)
  )
  found = verifier(
    [example('5'), example('6')], [boxed(*'5665'), boxed(*'6555')]
  )
  # (5, 5), (5, 6), (6, 6), (6, 5).
  assert asked == [4]
  assert found.rewards_PG.tolist() == [[1, 0, 0, 1], [1, 0, 0, 0]]


def test_another_way_to_find_the_answer(verifier):
  usual = settings.describe(verifier)
  with MathVerifier(
    num_workers=1, cpu_seconds=0.5, memory_mb=512, find=extract.prediction
  ) as verifier:
    # A run that asks it in the one way does not go on in the other.
    assert settings.differences(usual, settings.describe(verifier)) == [
      "find was 'extract.boxed', now 'extract.prediction'"
    ]
    found = verifier(
      [example('5')], [[f'{extract.START}10/2{extract.END}', r'\boxed{5}']]
    )
  assert found.rewards_PG.tolist() == [[1, 0]]


def test_verdicts_do_not_depend_on_what_came_before(verifier):
  rng = random.Random(3)
  pairs = [(rng.choice(GOLDS), rng.choice(ANSWERS)) for _ in range(60)]
  first = verifier.compare(pairs)
  assert len(set(first)) > 2
  order = rng.sample(range(60), 60)
  again = verifier.compare([pairs[i] for i in order])
  assert again == [first[i] for i in order]


GOLDS = ['5', r'\frac{1}{2}', 'x^2 + 1', '(1, 2)', r'\{1, 2\}', 'x > 1']
ANSWERS = [
  '5.0', '0.5', r'\frac{2}{4}', '1 + x^2', '1, 2', '1 < x', '{', r'\sqrt{25}',
  r'\sin^2 x + \cos^2 x', r'\begin{pmatrix} 1 & 2 \end{pmatrix}', '5!', 'five',
  r'\sum_{k=1}^{2} k', 'x = 5', r'50\%', r'(x + i)(x - i)',
]  # fmt: skip


@pytest.mark.slow
def test_an_interrupted_call_leaves_nothing_for_the_next(verifier, monkeypatch):
  real = verifier._pool._wait
  calls = []

  def interrupted():
    calls.append(0)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return real()

  monkeypatch.setattr(verifier._pool, '_wait', interrupted)
  with pytest.raises(KeyboardInterrupt):
    verifier.compare([('5', '6')] * 20)
  assert verifier.compare([('5', '5')] * 20) == ['right'] * 20


def test_a_worker_that_is_killed_has_no_verdict():
  """By what ends processes when a machine runs out of memory."""
  with MathVerifier(num_workers=1, cpu_seconds=60) as verifier:
    assert verifier.compare([('5', '5')]) == ['right']
    (worker,) = verifier._pool._workers
    (child,) = children(worker._process.pid)

    def kill():
      wait_until(lambda: busy(child))
      os.kill(child, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = verifier([example('5')], [boxed(SLOW, '5')])
    thread.join()
  assert found.reasons_PG.tolist() == [['killed', 'right']]
  np.testing.assert_array_equal(found.rewards_PG, [[NAN, 1]])


def test_an_answer_that_the_pool_has_lost(verifier, monkeypatch):
  monkeypatch.setattr(verifier._pool, 'map', lambda requests: [None])
  found = verifier([example('5')], [[*boxed('5'), '5']])
  assert found.reasons_PG.tolist() == [['lost', 'format/missing']]
  np.testing.assert_array_equal(found.rewards_PG, [[NAN, 0]])


@pytest.mark.parametrize(
  'options, error',
  [
    ({'cpu_seconds': 0}, 'cpu_seconds=.*: expected'),
    ({'cpu_seconds': float('nan')}, 'cpu_seconds=.*: expected'),
    ({'memory_mb': 64}, 'memory_mb=.*: expected .*256'),
    ({'num_workers': 0}, 'num_workers=.*: expected .*1'),
  ],
)
def test_impossible_limits(options, error):
  with pytest.raises(ValueError, match=error):
    MathVerifier(**options)


def hostile(rng: random.Random, costly: float) -> str:
  """An answer by a policy that has lost its mind; a share of them is costly."""
  n = int(10 ** rng.uniform(0, 2.5))
  endless = [
    lambda: '^'.join(rng.choices('123456789', k=rng.randint(2, 5))),
    lambda: '9^{' * min(n, 9) + '9' + '}' * min(n, 9),
    lambda: '(' * n + '1' + ')' * n,
    lambda: '{' * n + '1' + '}' * rng.randint(0, n),
    lambda: r'\frac{1}{' * n + '2' + '}' * n,
    lambda: rf'\int_{{0}}^{{10^{{{n}}}}} x^x dx',
    lambda: rf'\binom{{10^{rng.randint(1, 9)}}}{{10^{rng.randint(1, 9)}}}',
    lambda: str(rng.randint(1, 9)) + '!' * rng.randint(1, 40),
    lambda: rf'\lim_{{x \to 0}} \frac{{\sin^{{{n}}} x}}{{x^{{{n}}}}}',
    lambda: f'x^{{{n}}} = y^{{{n}}} + {n}',
  ]
  mad = [
    lambda: r'\sqrt' * n + '{2}',
    lambda: r'\boxed{' * n,
    lambda: '1' * 10 ** rng.randint(1, 6),
    lambda: rng.choice('ab \\{}$^_%&#~') * 10 ** rng.randint(1, 6),
    lambda: ''.join(chr(rng.randrange(0x300)) for _ in range(n)),
    lambda: ''.join(chr(rng.randrange(0x110000)) for _ in range(n)),
    lambda: ''.join(rng.choices('0123456789+-*/^(){}=<>,.!\\x ', k=n)),
    lambda: ''.join(rng.choices(LATEX, k=min(n, 60))),
    lambda: f'{rng.choice(ANSWERS)}\x00{rng.choice(ANSWERS)}\n7 right\n',
    lambda: '\ud800\udfff\ud83d' * n,
    lambda: r'\begin{pmatrix}' + r'1 & 2 \\ ' * min(n, 9) + r'\end{pmatrix}',
    lambda: '__import__("os").abort()',
    lambda: '\r\n' * n,
  ]
  return rng.choice(endless if rng.random() < costly else mad)()


LATEX = [
  r'\frac', '{', '}', '1', 'x', '^', '_', r'\left(', r'\right)', '&', r'\\',
  r'\begin{cases}', r'\end{cases}', r'\infty', r'\int', r'\sum', ',', '=', '<',
  r'\cup', '[', ']', r'\text{', r'\pm', '%', '!', r'\log', r'\sin', '|', '$',
  '9', '10', r'\cdot', r'\%', r'\circ', r'\mathbb{R}', r'\{', r'\}', '.', ' ',
]  # fmt: skip
REASONS = {
  'right', 'wrong', 'unparsable', 'long', 'timeout', 'memory', 'crash',
  'format/empty',
}  # fmt: skip


def load(verifier):
  """Workers load while the caller does something else; here, they are timed."""
  wait_until(
    lambda: (
      verifier.compare([('5', '5')]) == ['right']
      and all(worker.ready for worker in verifier._pool._workers)
    )
  )


def assert_survives(count: int, costly: float):
  """Hostile answers in groups of ten, each with a good answer among them."""
  rng = random.Random(count)
  # Of seven digits and a half, so that nobody hits upon one.
  golds = [f'{i + 1_000_000}.5' for i in range(count // 10)]
  groups = []
  for i, gold in enumerate(golds):
    group = [hostile(rng, costly) for _ in range(10)]
    group.insert(i % 11, gold.removesuffix('.5') + r'\frac12')
    groups.append([extract.START + text + extract.END for text in group])
  with MathVerifier(
    num_workers=2, cpu_seconds=0.5, memory_mb=512, find=extract.prediction
  ) as verifier:
    load(verifier)
    start = time.monotonic()
    found = verifier([example(gold) for gold in golds], groups)
    seconds = time.monotonic() - start
  places = [i % 11 for i in range(len(groups))]
  expected_PG = np.zeros((len(groups), 11), np.float32)
  expected_PG[range(len(groups)), places] = 1
  np.testing.assert_array_equal(found.rewards_PG, expected_PG)
  print(
    f'\n{count} hostile answers in {seconds:.0f} s, '
    f'{found.rewards_PG.size / seconds:.0f}/s: {found.counts()}'
  )
  assert {'wrong', 'unparsable', 'long', 'timeout'} <= set(found.counts())
  assert set(found.counts()) <= REASONS


# More of them where there is time: RLPT_HOSTILE=10000 pytest -n0 -s -k many.
@pytest.mark.slow
def test_many_hostile_answers():
  count = int(os.environ.get('RLPT_HOSTILE', 300))
  assert_survives(count, costly=0.05)


@pytest.mark.slow
def test_throughput(verifier):
  """Of answers as they should be; `pytest -n0 -s` shows it."""
  rng = random.Random(5)
  pairs = []
  for _ in range(100):
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    pairs.append((rf'\frac{{{a}}}{{{b}}}', f'{a}/{b}'))
    pairs.append((f'{a}x^2 + {b}', f'{b} + {a}x^{{2}}'))
    pairs.append((str(a), str(b)))
  load(verifier)
  start = time.monotonic()
  reasons = verifier.compare(pairs)
  seconds = time.monotonic() - start
  print(f'\n{len(pairs) / seconds:.0f} answers/s')
  assert reasons[::3] == reasons[1::3] == ['right'] * 100
