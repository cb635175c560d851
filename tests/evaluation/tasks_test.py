"""One benchmark for one model; the rest is seen through `rlpt evaluate`."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlpt_jax.completions.options import SamplingOptions
from rlpt_jax.core import one_host
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.evaluation import questions, tasks
from rlpt_jax.inference import judges, model_files
from rlpt_jax.rewards import scores

RANDOM = 'random:tiny_qwen3'


def judged(reward):
  """The lines of a problem with two answers."""
  example = Example(np.array([1]), ('a',), 'asr', 'corpus', 'd', 0)
  asked = questions.Questions(
    'mine', ['p'], ['?'], [example], ['asr'], 2, reward
  )
  completion = SimpleNamespace(tokens=[1, 2])
  group = [
    SimpleNamespace(text=text, completion=completion, finish_reason='stop')
    for text in 'ab'
  ]
  [lines] = tasks.judged(asked, 0, iter([group]))
  return lines


def rewards(reward):
  return [line['reward'] for line in judged(reward)]


def test_a_reward_may_return_mere_numbers():
  lines = judged(lambda examples, completions: [1, None])
  found = [(line['reward'], line['reason']) for line in lines]
  assert found == [(1.0, 'scored'), (None, 'none')]


def test_all_hosts_have_the_scores_of_the_first(monkeypatch):
  """Also where each asks by itself, since a local judge needs them all."""
  asked = []

  @dataclasses.dataclass(frozen=True)
  class WithServer(scores.Reward):
    judge: judges.LocalModel

    def __call__(self, examples, completions):
      asked.append(examples)
      return [[0.0, 0.0]]  # What the server says to the second host.

  judge = judges.Weighing(model=RANDOM, chat=False)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(one_host, 'broadcast', lambda found: [[1.0, None]])
  assert rewards(WithServer(judge)) == [1.0, None] and len(asked) == 1
  assert rewards(lambda *_: asked.append(_)) == [1.0, None]
  assert len(asked) == 1  # Only the first asks.


def test_the_prompt_is_what_the_model_reads(tmp_path):
  rows = [
    {'question': '?', 'choices': list('xyz'), 'answer': i % 3} for i in range(4)
  ]
  (tmp_path / 'mmlu.json').write_text(json.dumps(rows))
  (loaded,) = questions.load(['mmlu'], tmp_path, chat=False)
  asked = questions.ask(
    loaded, questions.Scorers(), ByteTokenizer(), source='bytes', chat=False,
    n=None, limit=None,
  )  # fmt: skip
  files = model_files.find(RANDOM)
  options = SamplingOptions(
    seed=3, max_new_tokens=5, temperature=0.5, top_k=2, top_p=0.9, min_p=0.1
  )

  def task():
    return tasks.Task(
      'a', files, asked, ByteTokenizer(), out=tmp_path, sampling=options,
      options={},
    )  # fmt: skip

  job = task().job
  requests = [job.request(i) for i in range(4)]
  assert [r.id for r in requests] == [f'mmlu/{i}' for i in range(4)]
  assert ByteTokenizer().decode(requests[0].prompt_tokens) == asked.prompts[0]
  assert (requests[0].samples, requests[0].seed) == (1, 3)
  assert (requests[0].max_new_tokens, requests[0].temperature) == (5, 0.5)
  assert (requests[0].top_k, requests[0].top_p, requests[0].min_p) == (
    2, 0.9, 0.1,
  )  # fmt: skip
  assert requests[0].stops == ((256,),)
  asked.examples[1].prompt_tokens[0] = 259
  with pytest.raises(ValueError, match='mmlu/1: token 259 is outside'):
    task()
