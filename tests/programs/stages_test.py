"""What is done is not done again; other settings are refused; one goes on."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlpt_jax.programs import stages as stages_lib
from rlpt_jax.programs.stages import Stages


def test_work_is_done_once_and_its_result_kept(tmp_path, capsys):
  calls = []

  def work():
    calls.append(1)
    return {'found': len(calls)}

  for _ in range(2):
    stages = Stages(tmp_path / 'story', {'steps': 3})
    assert stages.do('something', work) == {'found': 1}
  assert calls == [1]
  assert '1. something' in capsys.readouterr().out


def test_other_settings_and_other_folders_are_refused(tmp_path):
  Stages(tmp_path / 'story', {'steps': 3, 'seed': 0})
  with pytest.raises(ValueError, match=r'steps=3, now 4\. Go on'):
    Stages(tmp_path / 'story', {'steps': 4, 'seed': 0})
  (tmp_path / 'mine.txt').write_text('not to be touched')
  with pytest.raises(ValueError, match='has files but no quickstart'):
    Stages(tmp_path, {'steps': 3})


def test_a_command_runs_in_the_folder_once_and_says_so(tmp_path, monkeypatch):
  ran = []

  def call(command, *, cwd, env):
    ran.append((command[1:], cwd, env['PYTHONPATH']))
    return statuses.pop(0)

  monkeypatch.setattr(stages_lib.subprocess, 'call', call)
  statuses = [130, 2, 0]
  stages = Stages(tmp_path, {})
  with pytest.raises(KeyboardInterrupt):
    stages.run('a title', 'preview', 'a.gin')
  with pytest.raises(ValueError, match='failed with status 2'):
    stages.run('a title', 'preview', 'a.gin')
  for _ in range(2):
    Stages(tmp_path, {}).run('a title', 'preview', 'a.gin')
  assert len(ran) == 3  # Interrupted, failed, done; then not again.
  assert ran[0][0] == ['-m', 'rlpt_jax.cli', 'preview', 'a.gin']
  assert ran[0][1] == tmp_path


def test_sigterm_leaves_no_command_behind(tmp_path, monkeypatch):
  sleeper, begun = tmp_path / 'sleeper', []
  sleeper.write_text('#!/bin/sh\nexec sleep 60\n')
  sleeper.chmod(0o755)

  class Popen(subprocess.Popen):
    def __init__(self, *args, **options):
      super().__init__(*args, **options)
      begun.append(self)

  def terminate():
    while not begun:
      time.sleep(0.1)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(sys, 'executable', str(sleeper))
  monkeypatch.setattr(subprocess, 'Popen', Popen)
  stages = Stages(tmp_path / 'story', {})
  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=terminate)
  thread.start()
  with pytest.raises(KeyboardInterrupt, match='goes on here'):
    stages.run('a title', 'preview', 'a.gin')
  thread.join()
  assert begun[0].wait(timeout=30) == -signal.SIGKILL
  assert signal.getsignal(signal.SIGTERM) is before
