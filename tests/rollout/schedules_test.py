"""The order of sampling, publishing and learning."""

from rlpt_jax.rollout import schedules


def test_synchronous_samples_with_the_weights_of_the_last_update():
  events = []

  def collect():
    events.append('collect')
    return None if events.count('collect') > 2 else len(events)

  for _ in schedules.synchronous(collect, lambda: events.append('publish')):
    events.append('update')
  assert events == ['publish', 'collect', 'update'] * 2 + ['publish', 'collect']
