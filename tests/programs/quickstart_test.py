"""The newcomer's command: from nothing to the end, stopped and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from rlpt_jax import cli
from rlpt_jax.programs import quickstart, train_rl, train_sft
from tests.programs import small_models_test

# A story of few steps and questions.
SHORT = ('--steps', '2', '--questions', '8')


def test_other_settings_are_refused_in_one_line(tmp_path, capsys):
  workdir = tmp_path / 'story'
  workdir.mkdir()
  settings = {'steps': 60, 'questions': 200, 'seed': 0, 'from_scratch': False}
  notes = {'settings': settings, 'done': {}}
  (workdir / 'quickstart.json').write_text(json.dumps(notes))
  assert cli.main(['quickstart', str(workdir), *SHORT]) == 2
  error = capsys.readouterr().err.splitlines()[0]
  assert 'steps=60, now 2' in error and 'choose another folder' in error


def test_no_questions_are_refused_before_anything_is_made(tmp_path, capsys):
  arguments = ['quickstart', str(tmp_path / 'story'), '--questions', '0']
  assert cli.main(arguments) == 2
  assert '--questions=0: expected at least 1' in capsys.readouterr().err
  assert not (tmp_path / 'story').exists()


def test_gin_files_are_what_their_programs_read():
  programs = []
  for file in sorted(quickstart.FILES.glob('*.gin')):
    if told := re.search(r'# Command: +rlpt (\w+) (\S+)', file.read_text()):
      programs.append(told[1])
      assert told[2] == file.name
      kind = {'train_sft': train_sft.Config, 'train_rl': train_rl.Config}
      config = cli.read_config(kind[told[1]], file)
      assert config.optimizer.num_steps in (None, config.num_steps)
  assert programs == ['train_sft', 'train_sft', 'train_sft', 'train_rl']


@pytest.mark.slow
def test_the_story_stopped_and_gone_on_with(tmp_path):
  workdir = tmp_path / 'story'
  command = [sys.executable, '-m', 'rlpt_jax.cli', 'quickstart', workdir]
  log = tmp_path / 'log'
  with log.open('w') as file:
    running = subprocess.Popen(
      [*command, *SHORT], stdout=file, stderr=file, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while '/200 ' not in log.read_text():  # A step of the cold start.
      assert running.poll() is None and time.monotonic() < deadline
      time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)  # Ctrl-C.
    assert running.wait(timeout=300) == 130, log.read_text()
  found = re.search(r'interrupted: saved after step (\d+)', log.read_text())
  assert (workdir / 'cold_start' / 'checkpoints' / found[1]).is_dir()
  again = subprocess.run(
    [*command, *SHORT], capture_output=True, text=True, check=False
  )
  assert again.returncode == 0, again.stdout + again.stderr
  for words in ('verdicts agree', 'cold start', 'after RLPT', 'Next: '):
    assert words in again.stdout
  steps = (workdir / 'rlpt' / 'metrics.jsonl').read_text().splitlines()
  assert len(steps) == 2
  small_models_test.assert_same_greedy_text(
    workdir / 'exported', 'On Monday the pool was open, and it', tmp_path
  )
  third = subprocess.run(
    [*command, *SHORT], capture_output=True, text=True, check=True
  )
  assert third.stdout.count('done before') == 6
