"""Schedules: the order of sampling experience and publishing new weights.

A schedule is (collect, publish) -> Iterator[Experience]. `collect()` returns
the next experience, None once the data has ended; `publish()` gives the newest
weights to the sampler.
"""

from collections.abc import Callable, Iterator

from rlpt_jax.rollout.experience import Experience

CollectNext = Callable[[], Experience | None]


def synchronous(
  collect: CollectNext, publish: Callable[[], None]
) -> Iterator[Experience]:
  """Samples every batch with the weights of the last update (on-policy)."""
  while True:
    publish()
    experience = collect()
    if experience is None:
      return
    yield experience
