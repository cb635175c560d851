"""Which sampler has which group: a book without a clock and without a network.

A group is open until its first result. A sampler leases open groups, and keeps
them by naming them in time; otherwise others get them. So a group may be
sampled twice, but only one result counts.
"""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any


@dataclasses.dataclass
class Offer:
  """An open group; nobody has it once `until` has passed.

  oldest: older weights than of this version may not sample it.
  """

  task: Any
  oldest: int
  sampler: str | None = None
  until: float = 0.0

  def is_free(self, now: float) -> bool:
    return self.sampler is None or self.until < now


class Leases:
  """The open groups of a run, in the order of the data, and the results."""

  def __init__(self, seconds: float):
    """seconds: the length of a lease."""
    self._seconds = seconds
    self.open: dict[str, Offer] = {}
    self._results: dict[str, Any] = {}

  def offer(self, name: str, task: Any, oldest: int):
    """Adds a group behind all others."""
    self.open[name] = Offer(task, oldest)

  def hold(self, sampler: str, names: Collection[str], now: float) -> list[str]:
    """Gives a sampler these groups for longer, and takes all its others.

    Returns those that it may not have: they have a result, or are unknown, or
    another sampler has them by now.
    """
    lost = []
    for name in names:
      offer = self.open.get(name)
      if offer and (offer.sampler == sampler or offer.is_free(now)):
        self._lend(offer, sampler, now)
      else:
        lost.append(name)
    self.release(sampler, but=names)
    return lost

  def lend(
    self, sampler: str, *, version: int, count: int, now: float
  ) -> list[Any]:
    """Returns up to `count` tasks for a sampler whose weights have a version.

    The oldest groups come first.
    """
    tasks = []
    for offer in self.open.values():
      if len(tasks) >= count:
        break
      if offer.is_free(now) and offer.oldest <= version:
        self._lend(offer, sampler, now)
        tasks.append(offer.task)
    return tasks

  def _lend(self, offer: Offer, sampler: str, now: float):
    offer.sampler, offer.until = sampler, now + self._seconds

  def release(self, sampler: str, but: Collection[str] = ()):
    """Takes the groups of a sampler, except those named in `but`."""
    for name, offer in self.open.items():
      if offer.sampler == sampler and name not in but:
        offer.sampler = None

  def finish(self, name: str, result: Any) -> bool:
    """Keeps a group's result; returns False if it is not open any more.

    The result may come from a sampler that has lost the group.
    """
    if self.open.pop(name, None) is None:
      return False
    self._results[name] = result
    return True

  def are_open(self, names: Iterable[str]) -> bool:
    return any(name in self.open for name in names)

  def take_results(self) -> dict[str, Any]:
    """Returns the results since the last call, by the names of their groups."""
    results, self._results = self._results, {}
    return results
