"""The starts of a run's learner: how its samplers reach the newest of them.

The learner writes samplers.json in the run's folder each time that it starts.
Samplers read it at first, and again when the learner does not answer: it may
have started again at another address.
"""

import dataclasses
import json
import pathlib
import secrets
import socket

from rlpt_jax.core import checks, output_files
from rlpt_jax.core.checks import Name, Natural, Positive
from rlpt_jax.core.run_files import SAMPLERS

LAST_PORT = 65535
NO_VERSION = -1  # Older than all weights.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contact:
  """How a learner and the samplers of other processes reach each other.

  host: the name or address by which samplers reach the learner; by default what
    its machine calls itself. The learner then listens on all its addresses.
  port: where the learner listens; 0 picks a free port.
  lease_s: if a sampler says nothing for so many seconds, its groups go to other
    samplers. It says something after each chunk of tokens, so this must be
    longer than it takes to compile its programs, or to load new weights.
  patience_s: a sampler ends if the learner is gone for so many seconds.
  """

  host: Name | None = None
  port: Natural = 0
  lease_s: Positive = 300.0
  patience_s: Positive = 3600.0

  def __post_init__(self):
    checks.check_fields(self)
    if self.port > LAST_PORT:
      raise checks.setting_error(
        type(self), 'port', self.port, f'a number up to {LAST_PORT}'
      )


@dataclasses.dataclass(frozen=True)
class Start:
  """A start of the learner.

  secret: what samplers must send; it differs from start to start.
  versions: the version of the weights that each start began with, up to this
    one. Later weights of earlier starts were lost, and are not those that got
    their numbers since.
  over: the number of updates that the run was to make, once it has ended.
  """

  host: str
  port: int
  secret: str
  versions: tuple[int, ...]
  over: int | None = None

  @property
  def number(self) -> int:
    return len(self.versions) - 1

  def newest_of(self, earlier: 'Start') -> int | None:
    """The newest version of an earlier start that was not lost; None: all.

    NO_VERSION if that was a start of another run, whose folder was emptied.
    """
    if earlier.secret == self.secret:
      return None
    later = self.versions[len(earlier.versions) :]
    if not later or earlier.versions + later != self.versions:
      return NO_VERSION
    return min(later)


def own_name() -> str:
  """Returns what this machine calls itself; raises if that leads nowhere."""
  name = socket.gethostname()
  try:
    socket.gethostbyname(name)
  except OSError as error:
    raise ValueError(
      f'this machine calls itself {name!r}, but that name leads nowhere '
      f'({error.strerror}). Set starts.Contact.host to a name or an address '
      'by which samplers reach it.'
    ) from error
  return name


def read(workdir: pathlib.Path) -> Start | None:
  """Returns the newest start of the learner; None if there was none yet."""
  try:
    found = json.loads((workdir / SAMPLERS).read_text())
    return Start(**found | {'versions': tuple(found['versions'])})
  except (FileNotFoundError, ValueError):  # Or it is empty: see `write`.
    return None


def write(workdir: pathlib.Path, start: Start):
  path = workdir / SAMPLERS
  path.touch(mode=0o600)  # It has a secret; replacing the file keeps the mode.
  path.chmod(0o600)  # A copy of a folder may have another.
  text = json.dumps(dataclasses.asdict(start), indent=2) + '\n'
  output_files.replace(path, [text.encode()])


def following(earlier: Start | None, *, host: str, version: int) -> Start:
  """Returns the next start, without a port; version: that of its weights."""
  before = earlier.versions if earlier else ()
  return Start(host, 0, secrets.token_hex(16), (*before, version))
