"""Learning from rewards: that it learns. Faults: tests/faults_test.py."""

import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.algorithms import advantages, kl, losses
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.inference import judges, model_files
from rlpt_jax.llm import remote
from rlpt_jax.models import scoring
from rlpt_jax.programs import train_rl as train_rl_lib
from rlpt_jax.programs.train_rl import train_rl
from rlpt_jax.programs.train_sft import train_sft
from rlpt_jax.rewards import judge, scores
from rlpt_jax.rollout import collect, judged, rollout_files
from rlpt_jax.rollout.collect import Refill
from rlpt_jax.rollout.collector import Collector
from rlpt_jax.rollout.engine_plan import plan_for
from rlpt_jax.rollout.rollout_files import Kept
from rlpt_jax.rollout.sampling import Interruption, Sampling
from rlpt_jax.runs.run_folder import Saving
from rlpt_jax.training.checkpoints import Store
from tests.programs import learning_task


@pytest.fixture(scope='module')
def task(tmp_path_factory):
  """(folder of the task, model after the cold start)."""
  folder = learning_task.write(tmp_path_factory.mktemp('task'))
  train_sft(learning_task.cold_start(folder), workdir=folder / 'sft')
  return folder, folder / 'sft' / 'checkpoints'


def metrics(workdir, name='metrics.jsonl'):
  return [json.loads(line) for line in open(workdir / name)]


@pytest.mark.slow
def test_it_learns(task, tmp_path):
  train_rl(learning_task.learning(*task), workdir=tmp_path)
  lines = metrics(tmp_path)
  assert lines[0]['held_out_before/reward'] < 0.5
  assert lines[-1]['held_out/reward'] > 0.9
  assert lines[-1]['reward/mean'] > 0.9
  # Sampler and learner agree all the way.
  assert max(line['sampler/gap_max'] for line in lines) < 1e-4


def shuffled(rewards_PG):
  """Advantages of other completions of the group."""
  return jnp.roll(advantages.group_normalized(rewards_PG), 1, axis=1)


def flipped(*arguments):
  return -losses.ppo(*arguments)


def always(examples, completions):
  return scores.Each(lambda example, text: scores.Verdict(0.5, 'scored'))(
    examples, completions
  )


# Once shown is enough: RLPT_ALL=1 pytest -k broken.
@pytest.mark.skipif('RLPT_ALL' not in os.environ, reason='shown once')
@pytest.mark.slow
@pytest.mark.parametrize(
  'change', [{'advantages': shuffled}, {'loss': flipped}, {'reward': always}],
  ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_is_broken_does_not_learn(change, task, tmp_path):
  config = learning_task.learning(*task, num_steps=25, **change)
  train_rl(config, workdir=tmp_path)
  lines = metrics(tmp_path)
  rewards = [line['reason/right'] for line in lines if 'reason/right' in line]
  if 'reward' in change:
    assert {line['flat_group_share'] for line in lines} == {1.0}
    assert max(line['gradient_norm'] for line in lines) == 0
  else:
    assert np.mean(rewards[-5:]) < 0.5


def weights_of(workdir):
  with Store(workdir / 'checkpoints', read_only=True) as store:
    arrays = store.arrays('params', step=store.steps()[-1])
    return {path: array.load() for path, array in arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize('sampler', [4, (4, 8)])
def test_a_run_goes_on_on_another_mesh(sampler, task, tmp_path):
  config = dataclasses.replace(learning_task.short(*task), num_steps=4)
  train_rl(config, workdir=tmp_path / 'whole')
  first = dataclasses.replace(config, num_steps=2)
  train_rl(first, workdir=tmp_path / 'moved')
  moved = dataclasses.replace(
    config, hardware=learning_task.hardware(
      num_microbatches=2, layout=Axes(fsdp=2, tensor=2, devices=4),
      sampler_layout=Axes(data=4, fsdp=1, devices=sampler),
    ),
  )  # fmt: skip
  train_rl(moved, workdir=tmp_path / 'moved')
  a, b = metrics(tmp_path / 'whole'), metrics(tmp_path / 'moved')
  assert len(a) == len(b) == 4
  for mine, other in zip(a, b, strict=True):
    assert mine['reward/mean'] == other['reward/mean']
    np.testing.assert_allclose(mine['loss'], other['loss'], atol=1e-4)
    np.testing.assert_allclose(
      mine['gradient_norm'], other['gradient_norm'], rtol=1e-3
    )
  expected, found = (weights_of(tmp_path / n) for n in ('whole', 'moved'))
  for path, w in expected.items():
    np.testing.assert_allclose(found[path], w, atol=1e-4, err_msg=path)


@pytest.mark.slow
def test_a_sampler_apart_computes_the_same(task, tmp_path):
  """The devices decide what overlaps, not what is computed."""
  config = learning_task.pipelined(
    learning_task.short(
      *task, num_steps=4, held_out=None, collect=collect.keep
    ),
    overlap=True,
  )
  for name, devices in (('together', (0, 4)), ('apart', (4, 8))):
    hardware = dataclasses.replace(
      config.hardware, layout=Axes(devices=(0, 4)),
      sampler_layout=Axes(data=2, fsdp=1, tensor=2, devices=devices),
    )  # fmt: skip
    train_rl(
      dataclasses.replace(config, hardware=hardware), workdir=tmp_path / name
    )
  expected, found = (weights_of(tmp_path / n) for n in ('together', 'apart'))
  for path, w in expected.items():
    np.testing.assert_array_equal(found[path], w, err_msg=path)


@pytest.mark.slow
def test_ways_to_the_same_update(task, tmp_path):
  """Prompts computed again in every row, or fewer microbatches."""
  config = dataclasses.replace(
    learning_task.short(*task), num_steps=1, held_out=None
  )
  ways = {
    'usual': {},
    'in rows': {'score': scoring.in_rows},
    # The fewest microbatches that fit: one.
    'at once': {'hardware': learning_task.hardware(num_microbatches=None)},
    'no clip': {'loss': losses.reinforce},
    'few slots': {
      'hardware': learning_task.hardware(num_microbatches=2, slots=16)
    },
    # Each completion in a row of its own, in the order of their lengths.
    'by length': {
      'hardware': learning_task.hardware(num_microbatches=2, lengths=2)
    },
  }
  for name, change in ways.items():
    changed = dataclasses.replace(config, **change)
    train_rl(changed, workdir=tmp_path / name)
  # Before Adam, which makes much of a little.
  (expected,) = metrics(tmp_path / 'usual')
  for name in ways:
    (found,) = metrics(tmp_path / name)
    for key in ('reward/mean', 'length/mean', 'tokens_in_loss'):
      assert found[key] == expected[key], name
    for key in ('gradient_norm', 'entropy'):
      np.testing.assert_allclose(
        found[key], expected[key], rtol=1e-5, err_msg=name
      )


@pytest.mark.slow
def test_a_kl_holds_it_back(task, tmp_path):
  config = learning_task.learning(
    *task, num_steps=4, held_out=None, kl=kl.InLoss(weight=1.0)
  )
  free = dataclasses.replace(config, kl=None)
  train_rl(config, workdir=tmp_path / 'held')
  train_rl(free, workdir=tmp_path / 'free')
  began = model_files.find(task[1]).load_params(layout=Axes(devices=1).layout())
  began = {'/'.join(path): w for path, w in named(began)}

  def moved(name):
    return sum(
      float(np.square(w - began[path]).sum())
      for path, w in weights_of(tmp_path / name).items()
    )

  assert moved('held') < moved('free')


@pytest.mark.slow
def test_a_kl_in_the_reward(task, tmp_path):
  """Its own component, 0 while there is no distance, and it holds back."""
  options = {'num_steps': 4, 'held_out': None, 'rollouts': Kept(every=1)}
  for name, penalty in (('free', None), ('held', kl.InReward(weight=3.0))):
    config = learning_task.learning(
      *task,
      **options,
      kl=penalty,
      advantages=advantages.group_centered,
    )
    train_rl(config, workdir=tmp_path / name)
  free, held = (metrics(tmp_path / name) for name in ('free', 'held'))
  assert 'reward/kl/mean' not in free[0]
  # What the reference computes is in the ledger.
  assert 'compute/reference_flops' not in free[0]
  assert (
    0 < held[0]['compute/reference_flops'] < held[0]['compute/update_flops']
  )
  np.testing.assert_allclose(held[0]['reward/kl/mean'], 0, atol=1e-4)
  np.testing.assert_allclose(
    held[0]['gradient_norm'], free[0]['gradient_norm'], rtol=1e-3
  )
  # The reward is still that of the task.
  assert held[0]['reward/mean'] == held[0]['reason/right']
  assert held[-1]['reward/kl/mean'] < -0.01
  lines = rollout_files.read(tmp_path / 'held/rollouts/00000003.jsonl.gz')
  groups = {}
  for line in lines:
    total = line['reward'] + line['components']['kl']['reward']
    groups.setdefault(line['example'], []).append((total, line['advantage']))
  for group in groups.values():
    totals, found = np.array(group).T
    np.testing.assert_allclose(found, totals - totals.mean(), atol=1e-5)


def named(tree):
  return [
    ([key.key for key in path], np.asarray(x))
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  ]


@pytest.mark.slow
def test_groups_are_kept_dropped_or_replaced(task, tmp_path):
  found = {}
  ways = {'keep': collect.keep, 'drop': collect.drop, 'refill': Refill()}
  for name, way in ways.items():
    config = learning_task.learning(
      *task, num_steps=1, prompts=8, held_out=None, collect=way,
      rollouts=Kept(every=1),
    )  # fmt: skip
    workdir = tmp_path / name
    train_rl(config, workdir=workdir)
    (line,) = metrics(workdir)
    lines = rollout_files.read(workdir / 'rollouts' / '00000000.jsonl.gz')
    learned = {x['example'] for x in lines if x['advantage'] is not None}
    found[name] = (len(learned), len(lines) // 8, line)
  learned, sampled, line = found['keep']
  assert learned == sampled == 8 and 0 < line['flat_group_share'] < 1
  varied = round(8 * (1 - line['flat_group_share']))
  assert found['drop'][:2] == (varied, 8)
  learned, sampled, line = found['refill']
  assert learned == 8 and sampled > 8
  # One more sampled prompt for each that was flat.
  flat = round(sampled * line['flat_group_share'])
  assert sampled == learned + flat


@pytest.mark.slow
def test_an_interruption_is_sampled_but_not_learned_from(task, tmp_path):
  """Half of the completions end before it; what it says is in no loss."""
  interruption = Interruption(phrase='=', after=(1, 2), answer=2, unless='')
  config = learning_task.learning(
    *task, num_steps=1, held_out=None, rollouts=Kept(every=1, tokens=True),
    sampling=Sampling(
      samples=8, max_new_tokens=5, interruption=interruption
    ),
  )  # fmt: skip
  train_rl(config, workdir=tmp_path)
  (line,) = metrics(tmp_path)
  rollouts = rollout_files.read(tmp_path / 'rollouts' / '00000000.jsonl.gz')
  assert 0.2 < line['interrupted_share'] < 0.8
  forced = 0
  for rollout in rollouts:
    places = [i for i, x in enumerate(rollout['logprobs']) if x is None]
    assert rollout['interrupted'] == bool(places)
    # Bytes before it that are no character become a mark when it comes.
    assert all(rollout['token_texts'][i].endswith('=') for i in places)
    forced += len(places)
  assert line['tokens_in_loss'] == sum(x['tokens'] for x in rollouts) - forced
  # Nor does what was not sampled count as a gap to the sampler.
  assert line['sampler/gap_max'] < 1e-4


@pytest.mark.slow
def test_completions_without_an_end_are_left_out_where_they_are_dropped(
  task, tmp_path
):
  config = learning_task.learning(
    *task, num_steps=1, held_out=None, rollouts=Kept(every=1),
    exclude=(collect.truncated,),
    reward=short_or_not, sampling=Sampling(samples=8, max_new_tokens=1),
  )  # fmt: skip
  train_rl(config, workdir=tmp_path)
  (line,) = metrics(tmp_path)
  rollouts = rollout_files.read(tmp_path / 'rollouts' / '00000000.jsonl.gz')
  cut = [x['finish_reason'] == 'length' for x in rollouts]
  # The cold start says a digit first: nearly nothing has ended by then.
  assert line['truncated_share'] == np.mean(cut) > 0.9
  assert [x['advantage'] is None for x in rollouts] == cut
  assert line['tokens_in_loss'] == len(cut) - sum(cut)
  # What the reward says of them is still there.
  assert line['short_share'] == np.mean(
    [x['reason'] == 'short' for x in rollouts]
  )
  assert 0 < line['short_share'] < 1


def short_or_not(examples, completions):
  return scores.Each(
    lambda example, text: scores.Verdict(
      float(text > '5'), 'short' if text < '3' else 'scored'
    )
  )(examples, completions)


def alone(rewards_PG):
  """REINFORCE with a baseline that is no group's."""
  return rewards_PG - 0.5


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'sampling': Sampling(temperature=0.0)},
      'all samples of a group are the same',
    ),
    (
      {'sampling': Sampling(samples=1)},
      'samples=1: a single completion teaches nothing, since '
      'advantages.group_normalized compares it with its '
      'group; expected at least 2',
    ),
    (
      {
        'sampling': Sampling(samples=1), 'advantages': alone,
        'collect': collect.drop,
      },
      'samples=1: .* Config.collect treats it as a flat group',
    ),
    ({'sampling': Sampling(top_p=0.9)}, 'top_p=0.9.*the whole distribution'),
    (
      {'prompts': 9, 'hardware': train_rl_lib.Hardware(num_microbatches=2)},
      'num_microbatches=2: expected a divisor of Config.prompts=9',
    ),
    ({'collect': 'no'}, "Config.collect='no': expected a function"),
    ({'num_steps': 0}, r'Config\.num_steps=0'),
    ({'exclude': ('no',)}, 'Config.exclude=.*expected a function'),
    ({'max_pass_rate': 1.5}, 'max_pass_rate=1.5: expected a number above 0'),
    ({'kl': kl.k3}, 'Config.kl: expected an InLoss, or an InReward, or None'),
  ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(change, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    learning_task.learning(tmp_path, 'random:tiny_qwen3', **change)


def test_one_completion_may_teach_without_a_group(tmp_path):
  learning_task.learning(
    tmp_path, 'random:tiny_qwen3', sampling=Sampling(samples=1),
    advantages=alone,
  )  # fmt: skip


def test_held_out_examples_are_sampled_once_and_else_as_the_others(tmp_path):
  learned = Sampling(samples=8, max_new_tokens=48, temperature=0.5)
  config = learning_task.learning(
    tmp_path, 'm', sampling=learned,
    held_out=learning_task.held_out(tmp_path, sampling=None),
  )  # fmt: skip
  assert config.held_out_sampling == dataclasses.replace(learned, samples=1)
  # No room in the engine but what is asked for.
  plan = plan_for(config, ByteTokenizer())
  assert (plan.max_new_tokens, plan.group) == (48, 8)
  assert plan.own_tokens is None
  hardware = learning_task.hardware(own_tokens=96)
  few = dataclasses.replace(config, hardware=hardware)
  assert plan_for(few, ByteTokenizer()).own_tokens == 96
  greedy = Sampling(samples=2, max_new_tokens=9, temperature=0.0)
  held_out = learning_task.held_out(tmp_path, sampling=greedy)
  config = dataclasses.replace(config, held_out=held_out)
  assert config.held_out_sampling == greedy


@pytest.mark.slow
def test_another_config_is_refused(task, tmp_path):
  def crashes(examples, completions):
    raise RuntimeError('a mistake of mine')

  config = learning_task.learning(*task, num_steps=1, held_out=None)
  # One that made no step does not hold its folder.
  with pytest.raises(RuntimeError, match='a mistake of mine'):
    train_rl(dataclasses.replace(config, reward=crashes), workdir=tmp_path)
  train_rl(config, workdir=tmp_path)
  other = dataclasses.replace(
    config, prompts=8, loss=functools.partial(losses.ppo, clip_high=0.3)
  )
  with pytest.raises(
    ValueError, match='has a run with other settings'
  ) as error:
    train_rl(other, workdir=tmp_path)
  assert 'prompts was 16, now 8' in str(error.value)
  assert "loss was 'losses.ppo'" in str(error.value)
  # How far it goes may change.
  train_rl(dataclasses.replace(config, num_steps=2), workdir=tmp_path)
  assert [line['step'] for line in metrics(tmp_path)] == [0, 1]


def test_a_judge_is_tried_before_anything_is_loaded(tmp_path, monkeypatch):
  def too_late(*arguments, **options):
    raise AssertionError('the model was loaded first')

  monkeypatch.setattr(train_rl_lib.runs, 'start', too_late)
  answers = remote.Remote(remote.Endpoint(url='http://judge/v1', model='m'))
  answers.ask_now = lambda prompts: ['Sure!'] * len(prompts)
  config = learning_task.learning(
    tmp_path, 'random:tiny_qwen3', reward=judge.ByAnswer(answers)
  )
  with pytest.raises(ValueError, match="answered 'Sure!'"):
    train_rl(config, workdir=tmp_path)


def test_a_local_judge_is_loaded_before_the_sampler_is_planned(
  tmp_path, monkeypatch
):
  class Planned(Exception):
    pass

  def plan(*arguments, **options):
    assert weighing._ask is not None
    raise Planned

  monkeypatch.setattr(train_rl_lib.samplers, 'open_sampler', plan)
  weighing = judges.Weighing(
    model='random:tiny_qwen3', chat=False, dtype='float32'
  )
  config = learning_task.learning(
    learning_task.write(tmp_path / 'task'), 'random:tiny_qwen3',
    reward=judge.ByProbability(weighing), held_out=None,
  )  # fmt: skip
  with pytest.raises(Planned):
    train_rl(config, workdir=tmp_path / 'run')
  assert weighing._ask is None  # The run has closed it.


@pytest.mark.slow
def test_each_line_has_the_time_of_its_own_update(task, tmp_path, monkeypatch):
  learning_task.slow_updates(monkeypatch)
  config = learning_task.learning(*task, num_steps=2, held_out=None)
  train_rl(config, workdir=tmp_path)
  lines = metrics(tmp_path, 'timing.jsonl')
  assert len(lines) == 2
  for line, metric in zip(lines, metrics(tmp_path), strict=True):
    assert 1 < line['timing/update_s'] <= line['timing/step_s']
    # The prompt is not sampled, and is 5 tokens long.
    tokens = metric['compute/rollout_tokens'] - 16 * 5
    assert line['timing/tokens_per_s'] == tokens / line['timing/step_s']


@pytest.mark.slow
@pytest.mark.parametrize(
  'saved_by', ['nothing', 'its number', 'a failed judge']
)
def test_updates_that_are_not_finite_stop_the_run(saved_by, task, tmp_path):
  """And are not saved, or the next start would begin with one more."""
  asked = []

  def broken(logprobs_BT, *rest):
    return losses.ppo(logprobs_BT, *rest) + jnp.inf

  def reward(examples, completions):
    asked.append(examples)
    if saved_by == 'a failed judge' and len(asked) == 3:
      raise remote.Unavailable('it is gone')
    return learning_task.by_length(examples, completions)

  config = learning_task.learning(
    *task, held_out=None, loss=broken, max_skipped=2, reward=reward,
    saving=Saving(every=2 if saved_by == 'its number' else 50),
  )  # fmt: skip
  with pytest.raises(ValueError, match='step 2: 2 updates in a row had a loss'):
    train_rl(config, workdir=tmp_path)
  with Store(tmp_path / 'checkpoints', read_only=True) as store:
    assert store.steps() == []


@pytest.mark.slow
def test_a_run_ends_with_its_data(task, tmp_path, capsys):
  folder, model = task
  data = learning_task.questions(folder, 'held_out', epochs=1)
  config = learning_task.learning(
    folder,
    model,
    data=data,
    held_out=None,
    prompts=48,
    num_steps=9,
    sampling=Sampling(samples=2, max_new_tokens=3),
  )
  train_rl(config, workdir=tmp_path)
  # 64 questions are one batch and a third.
  assert len(metrics(tmp_path)) == 2
  assert 'out of data before step 3: 64 examples' in capsys.readouterr().out
  with Store(tmp_path / 'checkpoints', read_only=True) as store:
    assert store.steps() == [2]


class AlsoProposes(Collector):
  """Half of the groups answer; the others are paid where those disagree."""

  def _sample(self, parts, sampled, count):
    answers = super()._sample(parts, sampled, count // 2)
    if answers is None:
      return None
    proposing = [
      dataclasses.replace(example, kind='propose')
      for example in answers.examples
    ]
    names = [f'{name}/propose' for name in sampled]
    proposals = parts.rollouts(parts.sampling, proposing, names)
    sampled += names
    spread_P1 = answers.rewards_PG.std(axis=1, keepdims=True)
    rewards_PG = proposals.rewards_PG + spread_P1
    return judged.concatenate(
      [answers, dataclasses.replace(proposals, rewards_PG=rewards_PG)]
    )


def test_a_collector_may_give_the_policy_a_second_role(tmp_path):
  folder = learning_task.write(tmp_path / 'task')
  workdir = tmp_path / 'run'
  config = learning_task.learning(
    folder, 'random:tiny_qwen3', num_steps=2, held_out=None, prompts=8,
    rollouts=Kept(every=1), collector=AlsoProposes(),
  )  # fmt: skip
  train_rl(config, workdir=workdir)
  paths = sorted((workdir / 'rollouts').glob('*.jsonl.gz'))
  assert len(paths) == 2
  for path in paths:
    kinds = [line['kind'] for line in rollout_files.read(path)]
    assert sorted(set(kinds)) == ['propose', 'rlvr']
    assert len(kinds) == config.prompts * config.sampling.samples
