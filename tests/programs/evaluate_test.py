"""`rlpt evaluate`: models and benchmarks in, results and answers out."""

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rlpt_jax import cli
from rlpt_jax.completions import current_model, jobs
from rlpt_jax.completions.options import EngineOptions
from rlpt_jax.core import weights
from rlpt_jax.evaluation import next_segment, questions
from rlpt_jax.inference import model_files
from rlpt_jax.llm import remote
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import zoo
from rlpt_jax.programs import evaluate as evaluate_lib
from rlpt_jax.rewards import judge, scores
from rlpt_jax.sampling import engine as engine_lib
from rlpt_jax.training.checkpoints import Store
from tests import compiled

ROOT = pathlib.Path(__file__).parents[2]
RANDOM = 'random:tiny_qwen3'
NAME = 'random-tiny_qwen3'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Benchmarks of few problems, whose prompts are short."""
  folder = tmp_path_factory.mktemp('data')
  rows = {
    'gsm8k': [
      {'question': f'{i}+1?', 'answer': f'#### {i + 1}'} for i in range(6)
    ],
    'mmlu': [
      {'question': '?', 'choices': list('xyz'), 'answer': i % 3,
       'subject': 'ab'[i % 2]}
      for i in range(4)
    ],
  }  # fmt: skip
  for name, some in rows.items():
    (folder / f'{name}.json').write_text(json.dumps(some))
  (folder / 'ships.txt').write_text(
    'The ship left at dawn. The wind came from the north. So it turned round. '
    'All of them were content.\n'
  )
  return folder


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory, one_device):
  """Two checkpoints of a random model, as a run leaves them."""
  path = tmp_path_factory.mktemp('run') / 'checkpoints'
  config = zoo.get('tiny_qwen3')
  specs = decoder_lib.specs(config)
  with Store(path) as store:
    for step in (1, 2):
      params = weights.init(specs, jax.random.key(step), layout=one_device)
      store.save(step, {'params': params}, {'model': config.to_dict()})
  return path


def _evaluate(out, data, *arguments, models=(RANDOM,)):
  # Rooms of one size, so that what is compiled serves most tests.
  return cli.main([
    'evaluate', *map(str, models), '--out', str(out), '--data', str(data),
    '--max_new_tokens', '6', '--slots', '8', '-n', '2', '-k', '1', '2',
    '--tokenizer', 'bytes', *map(str, arguments),
  ])  # fmt: skip


def _lines(path):
  return [json.loads(line) for line in path.read_text().split('\n')[:-1]]


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


@pytest.mark.slow
def test_results_and_answers(data, tmp_path, capsys):
  out = tmp_path / 'out'
  assert _evaluate(out, data, '--benchmarks', 'gsm8k', 'mmlu') == 0
  printed = capsys.readouterr().out
  assert f'gsm8k: 6 problems of {data}/gsm8k.json' in printed
  assert f'\n{NAME}' in printed and ' pass@2 ' in printed
  assert f'wrote {out}/results.jsonl; ' in printed
  gsm8k, mmlu = _lines(out / 'results.jsonl')
  assert (gsm8k['model'], gsm8k['benchmark']) == (NAME, 'gsm8k')
  assert (gsm8k['problems'], gsm8k['samples'], gsm8k['tokens']) == (6, 2, 6)
  assert gsm8k['truncated'] == 1
  assert sorted(mmlu['groups']) == ['a', 'b']
  assert gsm8k['settings'] == {
    'max_new_tokens': 6, 'temperature': 0.6, 'top_k': 0, 'top_p': 0.95,
    'min_p': 0.0, 'stop': [], 'seed': 0, 'chat': False, 'n': 2, 'limit': None,
    'dtype': 'float32', 'cache_dtype': 'float32', 'tokenizer': 'bytes',
  }  # fmt: skip
  answers = _lines(out / 'answers' / NAME / 'gsm8k.jsonl')
  assert [(x['problem'], x['sample']) for x in answers] == [
    (f'gsm8k/{i}', g) for i in range(6) for g in (0, 1)
  ]
  for line in answers:
    assert list(line) == [
      'problem', 'sample', 'reward', 'reason', 'right', 'finish_reason',
      'tokens', 'prompt', 'completion',
    ]  # fmt: skip
    assert line['prompt'].startswith(f'{int(line["right"]) - 1}+1?\n\nPlease ')
  rewards = [line['reward'] for line in answers]
  assert gsm8k['mean']['value'] == pytest.approx(np.mean(rewards))

  # The same again is nothing to do, and another benchmark is all that is done.
  before = _files(out)
  assert _evaluate(out, data, '--benchmarks', 'mmlu', 'gsm8k') == 0
  assert _files(out) == before
  text = f'next_segment={data}/ships.txt'
  assert _evaluate(out, data, '--benchmarks', text) == 0
  last = _lines(out / 'results.jsonl')[-1]
  assert (last['benchmark'], sorted(last['groups'])) == (
    'next_segment', ['asr', 'msr'],
  )  # fmt: skip
  assert {k: v for k, v in _files(out).items() if 'gsm8k' in k} == {
    k: v for k, v in before.items() if 'gsm8k' in k
  }


@pytest.mark.slow
def test_checkpoints_share_an_engine(data, checkpoints, tmp_path, monkeypatch):
  engines = []

  class Engine(engine_lib.Engine):
    def __init__(self, *arguments, **options):
      super().__init__(*arguments, **options)
      engines.append(self)

  monkeypatch.setattr(current_model, 'Engine', Engine)
  both = [f'{checkpoints}@1', checkpoints]
  options = ['--benchmarks', 'mmlu']
  assert _evaluate(tmp_path / 'both', data, *options, models=both) == 0
  assert len(engines) == 1 and engines[0].version == 1
  first, second = _lines(tmp_path / 'both' / 'results.jsonl')
  assert (first['step'], second['step']) == (1, 2)
  assert first['model'].endswith('-checkpoints@1')
  # Each as it is by itself.
  for i, model in enumerate(both):
    out = tmp_path / str(i)
    assert _evaluate(out, data, *options, models=[model]) == 0
    for path in (out / 'answers').rglob('*.jsonl'):
      same = tmp_path / 'both' / path.relative_to(out)
      assert same.read_bytes() == path.read_bytes()
  assert len(engines) == 3


def test_a_judge_is_tried_before_a_model_is_loaded(data, tmp_path, monkeypatch):
  def too_late(*arguments, **options):
    raise AssertionError('the model was loaded first')

  monkeypatch.setattr(model_files.ModelFiles, 'decoder', too_late)
  answers = remote.Remote(remote.Endpoint(url='http://judge/v1', model='m'))
  answers.ask_now = lambda prompts: ['Sure!'] * len(prompts)
  ships = dataclasses.replace(
    next_segment.of_files(f'{data}/ships.txt'), reward=judge.ByAnswer(answers)
  )
  with pytest.raises(ValueError, match="answered 'Sure!'"):
    evaluate_lib.evaluate(
      (RANDOM,), benchmarks=[ships], out=tmp_path,
      engine=EngineOptions(tokenizer='bytes'),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('keep', [0, 3.5])
def test_what_is_there_is_not_done_again(keep, data, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  assert _evaluate(out, data, '--benchmarks', 'gsm8k', 'mmlu') == 0
  whole = _files(out)
  path = out / 'answers' / NAME / 'gsm8k.jsonl'
  lines = path.read_bytes().splitlines(keepends=True)
  half = lines[int(keep)][:50] if keep % 1 else b''
  path.write_bytes(b''.join(lines[: int(keep)]) + half)
  (out / 'results.jsonl').unlink()
  asked = []

  def request(self, i):
    asked.append(self.ids[i])
    return plain(self, i)

  plain = jobs.Job.request
  monkeypatch.setattr(jobs.Job, 'request', request)
  assert _evaluate(out, data, '--benchmarks', 'gsm8k', 'mmlu') == 0
  assert asked == [f'gsm8k/{i}' for i in range(int(keep) // 2, 6)]
  assert _files(out) == whole


def test_no_verdict_is_no_zero(data, tmp_path, monkeypatch, capsys):
  def never(example, completion):
    is_first = example.document.endswith('/0')
    return scores.Verdict(0.0, 'timeout' if is_first else 'right')

  monkeypatch.setattr(questions, 'Choice', lambda: scores.Each(never))
  out = tmp_path / 'out'
  assert _evaluate(out, data, '--benchmarks', 'mmlu') == 0
  (line,) = _lines(out / 'results.jsonl')
  assert (line['no_verdict'], line['mean']['problems']) == (2, 3)
  answers = _lines(out / 'answers' / NAME / 'mmlu.jsonl')
  assert [x['reward'] for x in answers[:3]] == [None, None, 0]
  assert answers[0]['reason'] == 'timeout'
  # Read again, it is what it was.
  before = _files(out)
  assert _evaluate(out, data, '--benchmarks', 'mmlu') == 0
  assert _files(out) == before


def test_other_settings_do_not_mix(data, tmp_path, capsys):
  out = tmp_path / 'out'
  assert _evaluate(out, data, '--benchmarks', 'mmlu') == 0
  before = _files(out)
  capsys.readouterr()
  assert _evaluate(out, data, '--benchmarks', 'gsm8k', '--top_p', 0.5) == 2
  err = capsys.readouterr().err.splitlines()[0]
  assert re.search('out: has a run with other settings: top_p was 0.95', err)
  other = data / 'other.json'
  other.write_text((data / 'mmlu.json').read_text().replace('"x"', '"u"'))
  assert _evaluate(out, data, '--benchmarks', f'mmlu={other}') == 2
  err = capsys.readouterr().err.splitlines()[0]
  assert re.search(
    r'mmlu\.jsonl: was begun with other settings: problems was', err
  )
  assert 'Restore those, or choose another --out to begin again.' in err
  assert _files(out) == before


def test_settings_of_nothing_are_forgotten(data, tmp_path, monkeypatch):
  out, options = tmp_path / 'out', ['--benchmarks', 'mmlu']
  with monkeypatch.context() as patch:
    patch.setattr(current_model, 'Engine', None)  # As if it had no room.
    with pytest.raises(TypeError):
      _evaluate(out, data, *options, '--seed', 1)
  assert _evaluate(out, data, *options) == 0


@pytest.mark.parametrize(
  ('arguments', 'models', 'message'),
  [
    ([], [RANDOM], '--benchmarks: expected one or more of mmlu, '),
    (['--benchmarks', 'gsm9k'], [RANDOM], "'gsm9k' is not a benchmark"),
    (['--benchmarks', 'aime24'], [RANDOM], 'aime24: no data. Put the train '),
    (['--benchmarks', 'mmlu', '-n', 0], [RANDOM], '--n=0: expected at least 1'),
    (['--benchmarks', 'mmlu', '-k', 0], [RANDOM], '--k=0: expected at least 1'),
    (['--benchmarks', 'mmlu', '--limit', 0], [RANDOM], '--limit=0: expected'),
    (['--benchmarks', 'x.gin'], [RANDOM], 'x.gin: no such gin file'),
    (['--benchmarks', 'mmlu'], [], 'MODELS: expected at least one'),
    (['--benchmarks', 'mmlu'], [RANDOM] * 2, f'{RANDOM}: is given twice'),
    (['--benchmarks', 'mmlu'], ['nowhere@3'], 'nowhere: no such directory'),
    (['--benchmarks', 'mmlu'], [f'{RANDOM}@3'], 'has no step 3'),
    (['--benchmarks', 'mmlu', '--chat'], [RANDOM], 'no chat templ'),
  ],
)
def test_a_mistake_is_one_line(
  arguments, models, message, data, tmp_path, capsys
):
  out = tmp_path / 'out'
  assert _evaluate(out, data, *arguments, models=models) == 2
  assert message in capsys.readouterr().err.splitlines()[0]
  assert not (out / 'results.jsonl').exists()


# Runs that end too early, as processes of their own.


def _start(out, data):
  environment = compiled.on_one_device() | {'PYTHONPATH': str(ROOT)}
  return subprocess.Popen(
    [sys.executable, '-m', 'rlpt_jax.cli', 'evaluate', RANDOM, '--out',
     str(out), '--benchmarks', f'gsm8k={data}', 'mmlu', '--data',
     str(data.parent), '-n', '4', '--max_new_tokens', '100', '--slots', '8'],
    env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip


def _wait_for_growth(path, process):
  size = path.stat().st_size if path.exists() else 0
  deadline = time.monotonic() + 600
  while not path.exists() or path.stat().st_size < size + 4000:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_ends_as_if_it_had_not_been(
  data, tmp_path
):
  folder = tmp_path / 'data'
  folder.mkdir()
  (folder / 'mmlu.json').write_bytes((data / 'mmlu.json').read_bytes())
  problems = folder / 'many.json'
  problems.write_text(
    json.dumps(
      [
        {'question': f'{"a " * (i % 5)}{i}?', 'answer': f'#### {i % 10}'}
        for i in range(24)
      ]
    )
  )
  out, plain = tmp_path / 'out', tmp_path / 'plain'
  answers = out / 'answers' / NAME / 'gsm8k.jsonl'

  # Ctrl-C.
  process = _start(out, problems)
  _wait_for_growth(answers, process)
  process.send_signal(signal.SIGINT)
  text = process.communicate(timeout=600)[0].decode()
  assert process.returncode == 130, text
  *_, last = text.strip().splitlines()
  assert re.search(
    rf'rlpt evaluate: interrupted: \d+ of 24 problems are in {answers}; run '
    'the same command to resume$',
    last,
  ), text

  # kill -9, in the middle of a line.
  process = _start(out, problems)
  _wait_for_growth(answers, process)
  process.kill()
  process.communicate()
  with answers.open('ab') as file:
    file.write(b'{"problem": "gsm')
  done = answers.read_bytes().count(b'\n')
  assert 4 <= done < 96
  begun = answers.read_bytes()[:1000]

  # To its end.
  process = _start(out, problems)
  text = process.communicate(timeout=600)[0].decode()
  assert process.returncode == 0, text
  assert answers.read_bytes().startswith(begun)

  process = _start(plain, problems)
  process.communicate(timeout=600)
  assert process.returncode == 0
  assert _files(out) == _files(plain)
  assert len(_lines(answers)) == 96
