"""`rlpt report`: folders of runs to one page."""

import dataclasses
import re
import shutil

import pytest

from rlpt_jax import cli
from rlpt_jax.programs import report
from rlpt_jax.programs.train_rl import train_rl
from rlpt_jax.programs.train_sft import train_sft
from rlpt_jax.rewards import extract
from rlpt_jax.rollout import rollout_files
from rlpt_jax.rollout.rollout_files import Kept
from tests.programs import learning_task
from tests.runs import logs_test

START, END = extract.START, extract.END


@pytest.fixture
def workdir(tmp_path):
  """A run of three steps, the last of which is being written."""
  workdir = tmp_path / 'run'
  workdir.mkdir()
  logs_test.write(workdir)
  (workdir / 'config.json').write_text('{"seed": 1, "optimizer": {"b1": 0.9}}')
  for step in range(3):
    line = {
      'example': 'a/b/0/asr',
      'sample': 0,
      'completion': f'so {START} It rained. {END}',
      'reward': 1.0,
      'answer': [len(START) + 4, len(START) + 14],
    }
    rollout_files.write(workdir, step, [line])
  return workdir


def test_a_page(workdir, tmp_path, capsys):
  out = tmp_path / 'page.html'
  assert cli.main(['report', str(workdir), '--out', str(out)]) == 0
  said = capsys.readouterr().out
  assert 'run: 3 steps, rollouts of 3.\n' in said
  assert f'wrote {out} (' in said
  page = out.read_text()
  assert page.startswith('<!doctype html>') and 'optimizer.b1' in page
  assert re.findall('id="(rollouts-.*?)"', page) == [
    'rollouts-0-1', 'rollouts-0-2', 'rollouts-0-3',
  ]  # fmt: skip
  # A run of train_sft has no rollouts, and does not say so.
  shutil.rmtree(workdir / 'rollouts')
  assert cli.main(['report', str(workdir), '--out', str(out)]) == 0
  assert 'run: 3 steps.\n' in capsys.readouterr().out


def test_room_for_few_rollouts(workdir, tmp_path, capsys):
  out = tmp_path / 'page.html'
  # Room for none: the first step and the last stay.
  arguments = ['report', str(workdir), '--out', str(out), '--max_mib', '0']
  assert cli.main(arguments) == 0
  said = capsys.readouterr().out
  assert '2 of the 3 steps with rollouts are on the page' in said


def refused(capsys, *arguments):
  assert cli.main(['report', *map(str, arguments)]) == cli.USAGE_ERROR
  return capsys.readouterr().err


def test_what_is_no_run_is_refused(workdir, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert 'WORKDIR: expected the folders of one' in refused(capsys)
  assert 'has no metrics.jsonl' in refused(capsys, tmp_path)
  folder = f'{tmp_path}: is a folder; expected a file'
  assert folder in refused(capsys, workdir, '--out', tmp_path)
  config = workdir / 'config.json'
  assert 'config.json: exists, and' in refused(capsys, workdir, '--out', config)
  device = '/dev/full: is a device; expected a file'
  assert device in refused(capsys, workdir, '--out', '/dev/full')
  assert 'is given twice' in refused(capsys, workdir, workdir / '.')
  metrics = workdir / 'metrics.jsonl'
  metrics.write_text('{"step": 0}\n[3]\n')
  assert 'metrics.jsonl, line 2: expected a JSON' in refused(capsys, workdir)
  metrics.write_text('')
  assert 'has no step yet' in refused(capsys, workdir)
  metrics.write_text('{"step": 0}\n')
  (workdir / 'rollouts' / '00000001.jsonl.gz').write_bytes(b'nothing')
  assert '00000001.jsonl.gz: cannot be read' in refused(capsys, workdir)
  assert not [*tmp_path.glob('report.html*')]


def test_rollouts_that_a_run_drops_are_none(workdir):
  path = workdir / 'rollouts' / '00000009.jsonl.gz'
  assert report.read_rollouts(path) == []


def test_what_a_setting_is_stands_under_its_own_path():
  optimizer = {'is': 'optimizer.AdamW', 'b1': 0.9}
  config = {'is': 'train_rl.Config', 'optimizer': optimizer, 'is_odd': 1}
  assert report.flat_settings(config) == {
    'program': 'train_rl.Config',
    'optimizer': 'optimizer.AdamW',
    'optimizer.b1': 0.9,
    'is_odd': 1,
  }


def test_the_judge_is_named_where_it_alone_gives_the_reward():
  judged = {'is': 'judge.ByAnswer'}
  beside = {'is': 'truth.WithTruth', 'reward': judged}
  summed = {'is': 'combine.Weighted', 'rewards': [judged]}
  found = [
    report.judge_of({'reward': reward}) for reward in (judged, beside, summed)
  ]
  assert found == ['judge', 'judge', '']
  assert report.judge_of({}) == ''


def test_evenly_as_many_as_have_room():
  files, sizes = [*'abcdefghi'], [3] * 9  # 36 bytes in base64.
  assert report.evenly(files, sizes, 36) == files
  assert report.evenly(files, sizes, 20) == ['a', 'c', 'e', 'g', 'i']
  assert report.evenly(files, sizes, 0) == ['a', 'i']
  assert report.evenly(['a'], [3], 0) == ['a']
  assert report.evenly([], [], 9) == []


@pytest.mark.slow
def test_real_runs(browser, tmp_path):
  """Whatever train_sft and train_rl write is on the page."""
  cold, warm = learning_task.two_steps(learning_task.write(tmp_path / 'task'))
  train_sft(cold, workdir=tmp_path / 'sft')
  warm = dataclasses.replace(warm, rollouts=Kept(tokens=True))
  train_rl(warm, workdir=tmp_path / 'rl')
  out = tmp_path / 'page.html'
  report.report((tmp_path / 'rl', tmp_path / 'sft'), out=out)
  browser.open(out)
  browser.wait('loaded')
  found = browser.evaluate("""
    byId('rollout-tools').elements.tokens.click();
    byId('more-groups').querySelector('button').click();
    return {missing: groups.flatMap((group) => group.answers).reduce(
        (count, answer) => count + answer.tokens, 0) -
        document.querySelectorAll('.token[title*=probability]').length,
      answers: document.querySelectorAll('div.answer').length,
      titles: [...document.querySelectorAll('#main-panels h3')].map(
      (e) => e.textContent)}
  """)
  assert browser.console == []
  assert found['answers'] == 64
  assert found['missing'] == 0
  assert found['titles'] == [
    'Reward', 'Held-out reward', 'Held-out loss', 'Accuracy: rlvr (questions)',
    'Response length', 'Entropy', 'Sampler-learner gap', 'Loss',
    'Gradient norm', 'Time of a step: rl', 'Time of a step: sft',
  ]  # fmt: skip
