"""One benchmark for one model; the rest is seen through `rlpt evaluate`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.completions.options import SamplingOptions
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.evaluation import questions, tasks
from rlpt_jax.inference import model_files

RANDOM = 'random:tiny_qwen3'


def test_a_reward_may_return_mere_numbers():
  example = Example(np.array([1]), ('a',), 'asr', 'corpus', 'd', 0)
  asked = questions.Questions(
    'mine', ['p'], ['?'], [example], ['asr'], 2,
    lambda examples, completions: [1, None],
  )  # fmt: skip
  completion = SimpleNamespace(tokens=[1, 2])
  group = [
    SimpleNamespace(text=text, completion=completion, finish_reason='stop')
    for text in 'ab'
  ]
  [lines] = tasks.judged(asked, 0, iter([group]))
  found = [(line['reward'], line['reason']) for line in lines]
  assert found == [(1.0, 'scored'), (None, 'none')]


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
  options = SamplingOptions(seed=3, max_new_tokens=5, temperature=0.5)

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
  assert requests[0].stops == ((256,),)
  asked.examples[1].prompt_tokens[0] = 259
  with pytest.raises(ValueError, match='mmlu/1: token 259 is outside'):
    task()
