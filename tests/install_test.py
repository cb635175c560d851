"""The base install in an empty environment, and the blocks of README in it."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import compiled, environments, readme_test
from tests.quickstart import small_models_test

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'
IMPORT_ALL = """
import importlib, pkgutil, sys
import rlpt_jax
assert 'site-packages' in rlpt_jax.__file__, rlpt_jax.__file__
for module in pkgutil.walk_packages(rlpt_jax.__path__, 'rlpt_jax.'):
  importlib.import_module(module.name)
  print(module.name)
"""


@pytest.fixture(scope='module')
def binaries(tmp_path_factory):
  """Where the commands of an environment with the base install are."""
  # A copy: building leaves files behind.
  source = tmp_path_factory.mktemp('source')
  shutil.copytree(ROOT / 'rlpt_jax', source / 'rlpt_jax')
  for name in ('setup.py', 'pyproject.toml', 'README.md'):
    shutil.copy(ROOT / name, source)
  subprocess.run(
    [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
     '--wheel-dir', source, source],
    check=True,
  )  # fmt: skip
  (wheel,) = source.glob('*.whl')
  folder = tmp_path_factory.mktemp('environments') / 'empty'
  return environments.base_install(folder, wheel) / 'bin'


def outside() -> dict[str, str]:
  """What a process is given that is to see no checkout."""
  return compiled.on_one_device() | {'PYTHONPATH': ''}


@pytest.mark.slow
def test_everything_is_imported_without_extras(binaries, tmp_path):
  def run(*command):
    done = subprocess.run(
      command, capture_output=True, text=True, cwd=tmp_path, env=outside()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  modules = run(binaries / 'python', '-c', IMPORT_ALL).split()
  assert 'rlpt_jax.programs.convert' in modules
  assert 'usage: rlpt' in run(binaries / 'rlpt', '--help')
  missing = 'try: import {}\nexcept ImportError: print("missing")'
  for name in ('torch', 'pytest', 'openai'):
    code = missing.format(name)
    assert run(binaries / 'python', '-c', code) == 'missing\n', name


@pytest.mark.slow
def test_the_blocks_of_readme_stopped_and_gone_on_with(binaries, tmp_path):
  work, log = tmp_path / 'work', tmp_path / 'log'
  (_, block), *_ = readme_test.BLOCKS[README]
  command, *_ = block.splitlines()
  assert command.startswith('rlpt quickstart work --steps 2 --questions ')
  with log.open('w') as file:
    running = subprocess.Popen(
      [binaries / 'rlpt', *command.split()[1:]], cwd=tmp_path, stdout=file,
      stderr=file, start_new_session=True, env=outside(),
    )  # fmt: skip
    while '/200 ' not in log.read_text():  # A step of the cold start.
      assert running.poll() is None, log.read_text()
      time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)  # Ctrl-C.
    assert running.wait() == 130, log.read_text()
  saved = re.search(r'interrupted: saved after step (\d+)', log.read_text())
  assert (work / 'cold_start' / 'checkpoints' / saved[1]).is_dir()
  # What is in the folder may be changed; these few steps are not for learning.
  for file, setting, few in (
    ('cold_start.gin', 'num_steps', 12), ('rlpt.gin', 'prompts', 4),
  ):  # fmt: skip
    text, changed = re.subn(
      rf'(Config\.{setting} =) \d+', rf'\1 {few}', (work / file).read_text()
    )
    assert changed == 1
    (work / file).write_text(text)
  out, _ = readme_test.run_blocks(README, tmp_path, binaries, outside())
  for words in ('verdicts agree', 'Cold start', 'after RLPT', 'Next: '):
    assert words in out
  steps = (work / 'rlpt' / 'metrics.jsonl').read_text().splitlines()
  assert len(steps) == 2
  small_models_test.assert_same_greedy_text(
    tmp_path / 'exported', 'On Monday the pool was open, and it', tmp_path
  )
