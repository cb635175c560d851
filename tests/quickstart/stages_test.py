"""What is done is not done again; other settings are refused; one goes on."""

import pathlib
import signal

import pytest

from rlpt_jax import cli
from rlpt_jax.quickstart.stages import Stages


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
  with pytest.raises(ValueError, match=r'steps=3, now 4\. Restore'):
    Stages(tmp_path / 'story', {'steps': 4, 'seed': 0})
  (tmp_path / 'mine.txt').write_text('not to be touched')
  with pytest.raises(ValueError, match='has files but no quickstart'):
    Stages(tmp_path, {'steps': 3})


def test_a_command_runs_in_the_folder_once_and_says_so(
  tmp_path, monkeypatch, capsys
):
  ran, statuses = [], [130, 75, 2, 0]

  def main(command):
    ran.append((command, pathlib.Path.cwd()))
    status = statuses.pop(0)
    if status == 75:  # As a run that was told to leave.
      raise SystemExit(status)
    return status

  monkeypatch.setattr(cli, 'main', main)
  stages, here = Stages(tmp_path, {}), pathlib.Path.cwd()
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt, match='command resumes here'):
      stages.run('a title', 'preview', 'a.gin')
  with pytest.raises(ValueError, match='failed with status 2'):
    stages.run('a title', 'preview', 'a.gin')
  for _ in range(2):
    Stages(tmp_path, {}).run('a title', 'preview', 'a.gin')
  # Interrupted, told to leave, failed, done; then not again.
  assert ran == [(['preview', 'a.gin'], tmp_path)] * 4
  assert pathlib.Path.cwd() == here
  said = capsys.readouterr().out
  assert said.count('$ rlpt preview a.gin') == 5
  assert said.count('already done') == 1


def test_sigterm_interrupts_a_command(tmp_path, monkeypatch):
  ended = []

  def main(command):
    try:
      signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:  # As the command line does.
      ended.append(command)
      return 130

  monkeypatch.setattr(cli, 'main', main)
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(KeyboardInterrupt, match='command resumes here'):
    Stages(tmp_path / 'story', {}).run('a title', 'preview', 'a.gin')
  assert ended == [['preview', 'a.gin']]
  assert signal.getsignal(signal.SIGTERM) is before
