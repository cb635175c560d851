"""Where PPO and GSPO clip, by their formula."""

from rlpt_jax.algorithms.ratios import ratio


def clipped(log_ratio_BT, advantages_B1, *, clip_low=0.2, clip_high=0.2):
  """[B, T]: True where a token has no gradient."""
  ratio_BT = ratio(log_ratio_BT)
  too_high_BT = (ratio_BT > 1 + clip_high) & (advantages_B1 > 0)
  too_low_BT = (ratio_BT < 1 - clip_low) & (advantages_B1 < 0)
  return too_high_BT | too_low_BT
