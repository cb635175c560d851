"""The newcomer's command; its story is told by install_test.py."""

import json
import re

from rlpt_jax import cli
from rlpt_jax.programs import quickstart, train_rl, train_sft

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
