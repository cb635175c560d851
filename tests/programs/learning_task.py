"""A task that a tiny model learns in seconds: name the largest digit.

A question is three digits. The cold start teaches to answer with one of them,
whichever: a reward of a third. The rest is left to learn from the reward.
"""

import dataclasses
import json
import random
import time

from rlpt_jax.algorithms.advantages import RunningNormalized
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.timers import Timers
from rlpt_jax.data.config import Data
from rlpt_jax.data.sources import Files
from rlpt_jax.data.tasks import Rlvr, Sft
from rlpt_jax.models.config import Compute
from rlpt_jax.programs import train_rl, train_sft
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.text_match import TextMatch, exact
from rlpt_jax.rollout.collect import Refill
from rlpt_jax.rollout.held_out import HeldOut
from rlpt_jax.rollout.rollout_files import Kept
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.schedules import Pipelined
from rlpt_jax.runs.run_folder import Saving
from rlpt_jax.training.optimizer import AdamW

FLOAT32 = Compute(dtype='float32')
ONE_DEVICE = Axes(devices=1)


def write(folder):
  """Questions to learn from, others to be tried on, and conversations."""
  folder.mkdir(exist_ok=True)
  rng = random.Random(0)
  questions = [f'{i:03}' for i in range(1000) if len({*f'{i:03}'}) == 3]
  rng.shuffle(questions)
  _write(
    folder / 'chats.jsonl',
    [{'prompt': f'{q}=', 'response': rng.choice(q)} for q in questions * 2],
  )
  parts = {
    'train': questions[64:], 'held_out': questions[:64],
    'few': questions[64:88],
  }  # fmt: skip
  for name, some in parts.items():
    _write(
      folder / f'{name}.jsonl',
      [{'question': q, 'answer': max(q)} for q in some],
    )
  return folder


def _write(path, lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def questions(folder, name, **options) -> Data:
  source = Files(name=name, files=str(folder / f'{name}.jsonl'))
  return Data(corpora=[source], task=Rlvr(template='{question}='), **options)


def held_out(folder, **options) -> HeldOut:
  greedy = Sampling(samples=1, max_new_tokens=3, temperature=0.0)
  return HeldOut(
    data=questions(folder, 'held_out'), **{'sampling': greedy} | options
  )


def hardware(**options) -> train_rl.Hardware:
  one = {'layout': ONE_DEVICE, 'sampler_layout': ONE_DEVICE}
  return train_rl.Hardware(**one | options)


def cold_start(folder, **changes) -> train_sft.Config:
  source = Files(name='chats', files=str(folder / 'chats.jsonl'))
  options = {
    'model': 'random:tiny_qwen3',
    'data': Data(corpora=[source], task=Sft(row_tokens=64)),
    'optimizer': AdamW(learning_rate=3e-3),
    'batch_size': 16,
    'num_steps': 40,
    'compute': FLOAT32,
    'layout': ONE_DEVICE,
  }
  return train_sft.Config(**options | changes)


def learning(folder, model, **changes) -> train_rl.Config:
  options = {
    'model': str(model),
    'data': questions(folder, 'train'),
    'held_out': held_out(folder),
    'reward': TextMatch(exact, find=extract.after_thinking),
    'optimizer': AdamW(learning_rate=2e-3),
    'num_steps': 28,
    'prompts': 16,
    'sampling': Sampling(samples=8, max_new_tokens=3),
    'max_prompt_tokens': 16,
    'compute': FLOAT32,
    'hardware': hardware(),
  }
  return train_rl.Config(**options | changes)


def short(folder, model, **changes) -> train_rl.Config:
  """A run with everything in it that a run may be killed in: it goes through
  its data several times, less of it each time.
  """
  options = {
    'data': questions(folder, 'few'),
    'advantages': RunningNormalized(),
    'max_pass_rate': 0.7,
    'num_steps': 8,
    'prompts': 4,
    'collect': Refill(),
    'hardware': hardware(num_microbatches=2),
    'held_out': held_out(folder, every=3, examples=8),
    'saving': Saving(every=2),
    'rollouts': Kept(last=3, every=2),
  }
  return learning(folder, model, **options | changes)


def pipelined(config: train_rl.Config, **options) -> train_rl.Config:
  """The same, asynchronous, with completions that outlive a step."""
  sampling = dataclasses.replace(config.sampling, max_new_tokens=40)
  return dataclasses.replace(
    config,
    sampling=sampling,
    schedule=Pipelined(**{'max_staleness': 2} | options),
    hardware=dataclasses.replace(config.hardware, slots=8),
  )


def by_length(examples, completions):
  """A reward that a random model has something of."""
  return scores.Each(
    lambda example, text: scores.Verdict(len(text) % 3 / 2, 'length')
  )(examples, completions)


def slow_updates(monkeypatch):
  """Lets a device take a second more for every update."""
  busy = Timers.busy

  def longer(timers, name, until, **options):
    busy(timers, name, lambda: (until(), time.sleep(1)), **options)

  monkeypatch.setattr(Timers, 'busy', longer)


def two_steps(folder):
  """Of a cold start and of learning, with a random model."""
  cold = cold_start(folder, num_steps=2, held_out_every=1, held_out_rows=8)
  cold = dataclasses.replace(cold, held_out=cold.data)
  warm = learning(
    folder, 'random:tiny_qwen3', reward=by_length, num_steps=2, prompts=8,
    held_out=held_out(folder, every=1, examples=8),
  )  # fmt: skip
  return cold, warm
