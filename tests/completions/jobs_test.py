"""A job that is interrupted goes on where its file ends."""

import io

import pytest
import rich.console

from rlpt_jax.completions import jobs
from rlpt_jax.completions.current_model import CurrentModel
from rlpt_jax.completions.group_files import GroupFile
from rlpt_jax.completions.options import (
  EngineOptions,
  SamplingOptions,
  plan_for,
)
from rlpt_jax.completions.prompt_files import Tally
from rlpt_jax.inference import model_files


@pytest.fixture(scope='module')
def sampler():
  options = EngineOptions(slots=8)
  plan = plan_for(
    options, prompts=5, samples=2, max_prompt_tokens=4, max_new_tokens=3,
    stop_ids=1,
  )  # fmt: skip
  with CurrentModel(plan, options) as current:
    current.load(model_files.find('random:tiny_qwen3'))
    yield current.sampler


def make_job(path, before_group=lambda number: None, **changes):
  def to_lines(first, groups):
    for number, group in enumerate(groups, first):
      before_group(number)
      yield [
        {
          'sample': i,
          'completion_tokens': sample.completion.tokens.tolist(),
          'finish_reason': sample.finish_reason,
        }
        for i, sample in enumerate(group)
      ]

  options = {
    'file': GroupFile(path),
    'ids': list('abcde'),
    'tokens': [(1, 2), (3,), (4, 5, 6), (7,), (8, 9)],
    'samples': 2,
    'sampling': SamplingOptions(max_new_tokens=3, seed=1),
    'stop_ids': (0,),
    'tokenizer': None,
    'to_lines': to_lines,
    'tally': Tally(),
  }
  return jobs.Job(**options | changes)


def test_an_interrupted_job_goes_on(sampler, tmp_path):
  console = rich.console.Console(file=io.StringIO())
  whole = make_job(tmp_path / 'whole.jsonl')
  assert (whole.longest, whole.is_done) == (3, False)
  jobs.run(whole, sampler, {'seed': 1}, console)
  assert whole.is_done and whole.tally.prompts == 5

  def interrupts(number):
    if number == 2:
      raise KeyboardInterrupt

  path = tmp_path / 'parts.jsonl'
  with pytest.raises(KeyboardInterrupt) as interrupted:
    jobs.run(make_job(path, interrupts), sampler, {'seed': 1}, console)
  assert str(interrupted.value).startswith(f'2 of 5 prompts are in {path}; run')
  assert sampler.is_idle
  rest = make_job(path, done=2)
  *_, (_, rest.tally.num_bytes) = rest.file.groups([{}] * 5, 2)
  jobs.run(rest, sampler, {'seed': 1}, console)
  assert path.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()


def test_damaged_weights_are_blamed_on_their_source(sampler, tmp_path):
  def breaks(number):
    raise FloatingPointError('no number')

  job = make_job(tmp_path / 'file.jsonl', breaks, source='my_model')
  with pytest.raises(FloatingPointError, match='my_model: no number'):
    jobs.run(job, sampler, {}, rich.console.Console(file=io.StringIO()))


def test_other_hosts_write_nothing(sampler, tmp_path):
  job = make_job(tmp_path / 'file.jsonl')
  jobs.run(job, sampler, {}, None)
  assert job.is_done and not job.file.path.exists()
