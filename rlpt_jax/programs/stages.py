"""Stages of a longer story, each done once: what is done is noted in a file, so
that a story which was interrupted goes on.
"""

import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import rlpt_jax

NOTES = 'quickstart.json'
GOES_ON = 'the same command goes on here'


class Stages:
  """Runs what is not done yet in a folder; refuses one with other settings."""

  def __init__(self, workdir: pathlib.Path, settings: dict[str, Any]):
    self._workdir, self._path = workdir, workdir / NOTES
    self._count, self._begun = 0, time.monotonic()
    self._notes = {'settings': settings, 'done': {}}
    if self._path.exists():
      self._notes = json.loads(self._path.read_text())
      found = self._notes['settings']
      if changed := [
        f'{name}={found.get(name)}, now {value}'
        for name, value in settings.items()
        if found.get(name) != value
      ]:
        raise ValueError(
          f'{workdir}: a story with other settings is there: '
          f'{"; ".join(changed)}. Go on with those, or choose another folder.'
        )
    elif workdir.exists() and any(workdir.iterdir()):
      raise ValueError(
        f'{workdir}: has files but no {NOTES}; expected a new folder, or one '
        'that was begun here. Choose another folder.'
      )
    workdir.mkdir(parents=True, exist_ok=True)
    self._save()

  def do(self, title: str, work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON), or returned when this stage was done."""
    self._announce(title)
    done = self._notes['done']
    if title not in done:
      done[title] = work()
      self._save()
    return done[title]

  def run(self, title: str, *command: str):
    """Runs `rlpt COMMAND` in the folder, in sight."""
    shown = shlex.join(['rlpt', *command])
    self._announce(title)
    print(f'   $ {shown}', flush=True)
    if self._notes['done'].get(title) == shown:
      print('   done before')
      return
    # This package, wherever it is, and not what lies in the folder.
    paths = [str(pathlib.Path(rlpt_jax.__file__).parents[1])]
    paths += filter(None, [os.environ.get('PYTHONPATH')])
    with sigterm_interrupts():
      status = subprocess.call(
        [sys.executable, '-m', 'rlpt_jax.cli', *command],
        cwd=self._workdir,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
      )
    if status in (130, 75):  # Interrupted, or told to leave.
      raise KeyboardInterrupt(GOES_ON)
    if status:
      raise ValueError(
        f'{title}: {shown} in {self._workdir} failed with status {status}; '
        'what it said is above. Mend that and start again: it goes on here.'
      )
    self._notes['done'][title] = shown
    self._save()

  def _announce(self, title: str):
    self._count += 1
    seconds = time.monotonic() - self._begun
    print(f'\n{self._count}. {title}  [{seconds:.0f} s]', flush=True)

  def _save(self):
    fresh = self._path.with_suffix('.new')
    fresh.write_text(json.dumps(self._notes, indent=2) + '\n')
    os.replace(fresh, self._path)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
  """Takes SIGTERM for Ctrl-C: what would die of it leaves a command behind, in
  a folder in which the next one begins the same.
  """

  def interrupt(number, frame):
    del number, frame
    raise KeyboardInterrupt(GOES_ON)

  before = signal.signal(signal.SIGTERM, interrupt)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
