"""Virtual environments that hold an installation and nothing else."""

import collections
import importlib.metadata
import pathlib
import subprocess
import sys
import venv

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def base_install(folder: pathlib.Path, wheel: pathlib.Path) -> pathlib.Path:
  """An environment as `pip install wheel` makes it in an empty one.

  What the wheel requires, and what that requires, is there by links to what the
  tests run with: gigabytes that need not be unpacked, nor compiled, again. What
  is installed here for the tests alone is not there.
  """
  venv.create(folder, with_pip=False)
  python = folder / 'bin' / 'python'
  subprocess.run(
    [sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet',
     '--no-deps', '--no-index', '--no-compile', wheel],
    check=True,
  )  # fmt: skip
  (site,) = folder.glob('lib/python*/site-packages')
  (info,) = site.glob('rlpt_jax-*.dist-info')
  own = importlib.metadata.Distribution.at(info)
  _link(required(own.requires), site)
  return folder


def required(lines: list[str]) -> set[str]:
  """Names of the distributions that requirements come to."""
  found, left = set(), [(Requirement(line), '') for line in lines]
  while left:
    requirement, extra = left.pop()
    marker = requirement.marker
    if marker and not marker.evaluate({'extra': extra}):
      continue
    name = canonicalize_name(requirement.name)
    new = {name} | {f'{name}[{extra}]' for extra in requirement.extras}
    more = importlib.metadata.distribution(name).requires or []
    for one in new - found:
      extra = one.removeprefix(name).strip('[]')
      left += [(Requirement(line), extra) for line in more]
    found |= new
  return {name for name in found if '[' not in name}


def _link(names: set[str], site: pathlib.Path):
  """Links what only these distributions have; folders, where they can be."""
  owners, at = collections.defaultdict(set), {}
  for distribution in importlib.metadata.distributions():
    name = canonicalize_name(distribution.name)
    for file in distribution.files or []:
      if file.parts[0] == '..':  # A command.
        continue
      for i in range(1, len(file.parts) + 1):
        owners[file.parts[:i]].add(name)
        at.setdefault(file.parts[:i], distribution)
  linked = set()
  for path in sorted(owners, key=len):
    if path[:-1] in linked:
      linked.add(path)
    elif owners[path] <= names:
      linked.add(path)
      (site / pathlib.Path(*path)).symlink_to(
        at[path].locate_file(pathlib.Path(*path))
      )
    elif owners[path] & names:
      (site / pathlib.Path(*path)).mkdir(exist_ok=True)
