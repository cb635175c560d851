"""The base install, tried in an empty environment."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil, sys
import rlpt_jax
assert 'site-packages' in rlpt_jax.__file__, rlpt_jax.__file__
for module in pkgutil.walk_packages(rlpt_jax.__path__, 'rlpt_jax.'):
  importlib.import_module(module.name)
  print(module.name)
"""


@pytest.mark.slow
def test_an_empty_environment_and_no_extras(tmp_path):
  # A copy: building leaves files behind.
  source = tmp_path / 'source'
  shutil.copytree(ROOT / 'rlpt_jax', source / 'rlpt_jax')
  for name in ('setup.py', 'pyproject.toml', 'README.md'):
    shutil.copy(ROOT / name, source)
  environment = tmp_path / 'environment'
  subprocess.run([sys.executable, '-m', 'venv', environment], check=True)
  python = environment / 'bin' / 'python'

  def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  run(python, '-m', 'pip', 'install', '--quiet', '--no-compile', source)
  modules = run(python, '-c', IMPORT_ALL).split()
  assert 'rlpt_jax.programs.convert' in modules
  assert 'usage: rlpt' in run(environment / 'bin' / 'rlpt', '--help')
  installed = run(python, '-m', 'pip', 'list').split()
  assert 'torch' not in installed
  short = ('--steps', '1', '--questions', '4')
  out = run(
    environment / 'bin' / 'rlpt', 'quickstart', tmp_path / 'work', *short
  )
  assert 'after RLPT' in out
