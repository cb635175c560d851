"""Runs that are killed, told to leave, or whose disk is full or judge is down:
started again, each ends as the run that nothing happened to, bit by bit.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import threading

import pytest

from rlpt_jax.llm import remote
from rlpt_jax.programs.train_rl import train_rl
from rlpt_jax.rewards import extract, judge
from rlpt_jax.rewards.scores import Reward
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.training.checkpoints import Store
from rlpt_jax.training.preemption import EXIT_PREEMPTED
from tests import mortal
from tests.mortal import Fate, Span
from tests.programs import learning_task
from tests.rewards import judges

pytestmark = pytest.mark.slow

# Of a program; more where there is time: RLPT_KILLS=20 pytest -n0 -s -k killed.
KILLS = {
  'train_rl': 3, 'pipelined': 2, 'overlapped': 2, 'train_sft': 1, 'game': 1
}  # fmt: skip
IN_ONE_WORKDIR = 7
# Where a run is killed, the first of them first.
PARTS = (
  'rollout', 'commit', 'update', 'metrics', 'held_out', 'checkpoint', 'publish',
  'rollout file', 'reward', 'sync', 'start', 'data',
)  # fmt: skip


@pytest.fixture(scope='module')
def run():
  with mortal.running() as run:
    yield run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return learning_task.write(tmp_path_factory.mktemp('task'))


@pytest.fixture(scope='module')
def whole(run, folder, tmp_path_factory):
  """(folder of a run that nothing happens to, its spans)."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  return workdir, finished(run('train_rl', folder, workdir))


def finished(end: mortal.End) -> list[Span]:
  assert end.status == 0, end.error + end.stderr
  return end.spans


def contents(workdir):
  """Digests of what a repeated run must repeat, weights and all."""
  paths = [workdir / 'metrics.jsonl', *workdir.glob('rollouts/*')]
  paths += workdir.glob('held_out/*')
  found = {
    str(path.relative_to(workdir)): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in paths
  }
  with Store(workdir / 'checkpoints', read_only=True) as store:
    found['steps'] = store.steps()
    content = store._read_record(store.steps()[-1])
    for tree in ('params', 'optimizer', 'counts', 'stream'):
      found[tree] = content['arrays'].get(tree)
    found['record'] = store.record()[1]
  return found


def test_the_whole_run_carries_all_that_a_run_may_carry(whole):
  text = (whole[0] / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert max(line['curriculum/skipped_share'] for line in lines) > 0
  solved = [line['curriculum/solved'] for line in lines]
  assert solved[0] < solved[-1]
  # The mean square goes from step to step, so a std of 1 is that of the first.
  stds = [line['advantage/std'] for line in lines]
  assert abs(stds[0] - 1) < 1e-3 < max(abs(std - 1) for std in stds[1:])
  record = contents(whole[0])['record']
  assert len(record['solved']) > 0 and record['advantages'] > 0


# Killed.


def drawn(spans: list[Span], count: int) -> list[tuple[Span, float]]:
  """(span, after how many seconds in it): all parts in turn, at any step; in
  an order in which a run that is killed at one still comes to the next.
  """
  rng, first = random.Random(7), {}
  for span in spans:
    first.setdefault((span.part, span.step), span)
  by_part = {part: [] for part in PARTS if part in {s.part for s in spans}}
  for span in first.values():
    if span.part in by_part:
      by_part[span.part].append(span)
  for some in by_part.values():
    rng.shuffle(some)
  # A run begins as often as it is killed.
  by_part['start'] *= count
  found = []
  while len(found) < count:
    for some in by_part.values():
      if some and len(found) < count:
        span = some.pop()
        found.append((span, rng.uniform(0, span.end_s - span.start_s)))
  moments = []
  for i in range(0, count, IN_ONE_WORKDIR):
    end = max(span.end_s for span in spans)
    moments += sorted(
      found[i : i + IN_ONE_WORKDIR],
      key=lambda one: (
        rng.uniform(one[0].start_s, end)
        if one[0].part == 'start'
        else one[0].start_s
      ),
    )
  return moments


@pytest.mark.parametrize('program', KILLS)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(
  program, run, folder, whole, tmp_path
):
  kills = int(os.environ.get('RLPT_KILLS', KILLS[program]))
  original, spans = whole
  if program != 'train_rl':
    original = tmp_path / 'whole'
    spans = finished(run(program, folder, original))
  # Of a path nothing may depend: Orbax globs it, TensorStore splits it at a \.
  killed = tmp_path / 'run[1]' / 'a\\b'
  expected = contents(original)
  lines = (original / 'metrics.jsonl').read_bytes()
  print(f'\n{program}: where it was killed, what there was then')
  print(f'{"part":>14} step  after ms  of ms  lines  checkpoints')
  for i, (span, after_s) in enumerate(drawn(spans, kills)):
    workdir = killed / str(i // IN_ONE_WORKDIR)
    end = run(program, folder, workdir, Fate(span.part, span.step, after_s))
    assert end.status == -signal.SIGKILL, (span, end.error, end.stderr)
    found = b''
    with contextlib.suppress(FileNotFoundError):
      found = (workdir / 'metrics.jsonl').read_bytes()
    # What there is, is right already.
    assert lines.startswith(found)
    steps = sorted(p.name for p in workdir.glob('checkpoints/[0-9]*'))
    print(
      f'{span.part:>14} {"-" if span.step is None else span.step:>4}'
      f'{after_s * 1e3:>10.1f}{(span.end_s - span.start_s) * 1e3:>7.1f}'
      f'{found.count(10):>7}  {" ".join(steps)}'
    )
  for workdir in killed.iterdir():
    finished(run(program, folder, workdir))
    assert contents(workdir) == expected


# Told to leave, and the disk.


def test_a_run_that_is_told_to_leave_or_finds_the_disk_full(
  run, folder, whole, tmp_path
):
  """It saves and goes on, or ends with one line and goes on."""
  checkpoints = tmp_path / 'checkpoints'

  def finds_the_disk_full(part, step, message):
    end = run('train_rl', folder, tmp_path, Fate(part, step, kind='FULL'))
    assert end.status == 2, end.stderr
    assert message in end.error and len(end.error.splitlines()) == 1, part
    assert 'Fix this and restart: the run resumes from' in end.error
    assert not list(tmp_path.glob('rollouts/*.new'))

  finds_the_disk_full(
    'rollout file', 1, '00000001.jsonl.gz: could not be written (File too'
  )
  finds_the_disk_full(
    'commit', 1, f'{checkpoints}: step 2 could not be saved (File too large)'
  )
  end = run('train_rl', folder, tmp_path, Fate('rollout', 2, kind='TERM'))
  assert end.status == EXIT_PREEMPTED, end.error + end.stderr
  assert 'preempted: saved after step 3' in end.stderr
  with Store(checkpoints, read_only=True) as store:
    assert store.steps() == [2, 3]
  assert len((tmp_path / 'metrics.jsonl').read_bytes().splitlines()) == 3
  finds_the_disk_full(
    'metrics', 3, 'metrics.jsonl: step 3 could not be written (File too'
  )
  finds_the_disk_full(
    'checkpoint', 5, f'{checkpoints}: step 6 could not be saved (File too'
  )
  finished(run('train_rl', folder, tmp_path))
  assert contents(tmp_path) == contents(whole[0])


# The judge.


class Events:
  """What is to happen before the judge is asked about some examples; an object,
  whose insides are no setting of the run.
  """

  def __init__(self, *events):
    self.events = events

  def before(self, examples):
    for event in self.events:
      event(examples)


def of_remote_judge(server, cache, events: Events):
  patience = remote.Patience(
    first_delay=0.01, longest_delay=0.1, open_after=3, wait=1.0
  )
  endpoint = remote.Endpoint(url=server.url, model='judge')
  asked = judge.ByAnswer(
    remote.Remote(endpoint, patience, cache=cache), reference=judge.asked,
    find=extract.after_thinking, min_share=0,
  )  # fmt: skip
  return Eventful(asked, events)


@dataclasses.dataclass(frozen=True)
class Eventful(Reward):
  """Lets something happen before its judge is asked."""

  judge: Reward
  events: Events

  def __call__(self, examples, completions):
    self.events.before(examples)
    return self.judge(examples, completions)


def sensible(prompt, nth):
  return ('say', f'Score: {len(prompt) % 2}')


def test_a_judge_that_is_down_or_broken_uses_up_nothing(
  folder, tmp_path, caplog, capsys, monkeypatch
):
  """It refuses connections for a while, then says nothing of use, then is gone
  for longer than the run waits: while groups are replaced, and while held-out
  examples are tried. Nothing is sampled twice.
  """
  sampled = {'whole': [], 'run': []}
  complete = Sampler.complete

  def train(name, *events):
    def noted(sampler, requests, *arguments, **options):
      sampled[name] += [request.id for request in requests]
      return complete(sampler, requests, *arguments, **options)

    monkeypatch.setattr(Sampler, 'complete', noted)
    config = learning_task.short(
      folder, mortal.RANDOM, num_steps=4,
      held_out=learning_task.held_out(folder, every=2, examples=8),
      reward=of_remote_judge(
        server, tmp_path / f'{name}.jsonl', Events(*events)
      ),
      sampling=Sampling(samples=2, max_new_tokens=3),
    )  # fmt: skip
    train_rl(config, workdir=tmp_path / name)

  def at(times, is_one, happens):
    """Lets it happen before the batch that is one for so many times."""
    left = [happens, *[None] * (times - 1)]
    return lambda examples: (
      left and is_one(examples) and (left.pop() or (lambda: None))()
    )

  def is_held_out(examples):
    return len(examples) == 8

  def goes_for_a_while():
    server.stop()
    threading.Timer(0.5, server.start).start()

  def breaks():
    server.act = lambda *_: ('say', 'As a language model')

  def goes_as_the_run_is_to_leave():
    server.stop()
    signal.raise_signal(signal.SIGTERM)

  def saved(step):
    after = 'the completions sampled so far\n'
    after = f'after step {step}, with' if step else after
    assert f'saved {after}' in capsys.readouterr().err
    with Store(tmp_path / 'run' / 'checkpoints', read_only=True) as store:
      # Before any step the folder is free for other settings.
      assert store.steps()[-1:] == [step] * bool(step)
    assert (tmp_path / 'run' / 'unjudged.npz').exists()

  with judges.running(sensible) as server:
    train('whole')
    absent = at(1, is_held_out, goes_for_a_while)
    broken = at(1, lambda examples: not is_held_out(examples), breaks)
    with pytest.raises(ValueError, match='verdicts are missing') as e:
      train('run', absent, broken)
    assert "answered 'As a language model'" in str(e.value)
    said = [r.getMessage() for r in caplog.records if 'waiting' in r.msg]
    assert f'{server.url} does not answer' in said[0]
    saved(0)
    # All groups were flat, and replaced: all that step 0 needs, and more.
    count = len(sampled['run'])
    server.act = sensible
    with pytest.raises(remote.Unavailable, match='restart the run') as e:
      train('run', at(1, lambda examples: len(examples) < 4, server.stop))
    assert len(str(e.value).splitlines()) == 1 and server.url in str(e.value)
    saved(0)
    assert len(sampled['run']) == count
    server.start()
    with pytest.raises(remote.Unavailable):
      train('run', at(2, is_held_out, server.stop))
    saved(2)
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_bytes().splitlines()
    assert len(lines) == 1  # That of step 1 waits for its held-out reward.
    server.start()
    with pytest.raises(remote.Unavailable, match='preempted'):
      train('run', at(2, is_held_out, goes_as_the_run_is_to_leave))
    saved(4)
    server.start()
    train('run')
    # What is finished is not tried again.
    server.stop()
    train('run')
  found, expected = contents(tmp_path / 'run'), contents(tmp_path / 'whole')
  for each in (found, expected):
    # The last checkpoint was saved before its held-out examples were judged;
    # what was computed in all is in metrics.jsonl too.
    each['record'] |= {'unfinished': None, 'ledger': None}
  assert found == expected
  later = sampled['run'][count:]
  first = sampled['whole'][: -len(later)]
  assert sampled['whole'] == first + later
  assert sampled['run'][: len(first)] == first
  assert not (tmp_path / 'run' / 'unjudged.npz').exists()


# The workdir.


def test_a_workdir_that_others_have_been_at(run, folder, whole, tmp_path):
  workdir = shutil.copytree(whole[0], tmp_path / 'run')
  path = workdir / 'metrics.jsonl'
  lines = path.read_bytes()
  path.write_bytes(lines[:-20])
  end = run('train_rl', folder, workdir)
  assert (end.status, end.error) == (
    2,
    f'{path}: the line of step 7 is missing, but the run resumes at step 8. '
    'Restore a checkpoint that resumes at step 7 or earlier, or choose another '
    'workdir.',
  )
  path.write_bytes(lines)
  # What kills leave behind, and a checkpoint of which half is gone.
  (workdir / 'config.new').write_text('{')
  (workdir / 'rollouts' / '00000007.jsonl.new').write_bytes(b'half')
  checkpoints = workdir / 'checkpoints'
  (checkpoints / '7.orbax-checkpoint-tmp' / 'params').mkdir(parents=True)
  shutil.rmtree(checkpoints / '8' / 'params')
  end = run('train_rl', folder, workdir)
  finished(end)
  assert f'{checkpoints}: step 8 is damaged' in end.stderr
  assert contents(workdir) == contents(whole[0])
  assert sorted(path.name for path in checkpoints.iterdir()) == [
    '6', '8', 'assets', 'damaged_8'
  ]  # fmt: skip
  assert not list(workdir.glob('**/*.new'))
