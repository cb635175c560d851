"""How many operations a model takes: what methods are compared at.

Operations of matrix products, a multiplication and an addition each, and those
that are needed: a token attends to the tokens before it and itself, a layer of
experts computes those that were chosen, and padding is not counted. Of a token
that sees k keys (itself included), one pass forward takes

  2 W                  W: weights of the products it goes through
  4 L N H k            scores, and the sum of values

and 2 V D where a head reads it. A gradient takes twice what its pass forward
took, and a layer that is computed again (remat) once more.
"""

import math

from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import DecoderConfig


def forward(
  config: DecoderConfig, tokens: int, *, context: int = 0, read: int = 0
) -> int:
  """Of `tokens` after a context, of which a head reads `read`."""
  c = config
  keys = tokens * context + tokens * (tokens + 1) // 2
  attention = 4 * c.num_layers * c.num_heads * c.head_dim * keys
  return 2 * layer_weights(c) * tokens + attention + head(c) * read


def head(config: DecoderConfig) -> int:
  """Of one token that the head reads."""
  return 2 * config.vocab_size * config.embed_dim


def layer_weights(config: DecoderConfig) -> int:
  """Weights of the products that a token goes through, without the head."""
  weights = 0
  for spec in decoder_lib.specs(config)['layers'].values():
    if spec.fan_in is None:
      continue  # A scale or a bias.
    size = math.prod(spec.shape)
    if 'experts' in spec.axes:
      size = size * config.experts_per_token // config.num_experts
    weights += size
  return weights


def rollout(config: DecoderConfig, prompt: int, completions: list[int]) -> int:
  """Of completions of one prompt, which is computed once.

  The last token of the prompt is the first of each row.
  """
  each = (forward(config, n, context=prompt - 1, read=n) for n in completions)
  return forward(config, prompt - 1) + sum(each)


def update(
  config: DecoderConfig,
  prompt: int,
  completions: list[int],
  *,
  remat: str = 'none',
  share_prompt: bool = True,
) -> int:
  """Of the gradient of the log-probabilities of completions of one prompt."""
  layers = _layers(config, prompt, completions, share_prompt)
  again = layers if remat == 'layer' else 0
  # Logits are never kept: their gradient computes them again.
  return 3 * layers + again + 4 * head(config) * sum(completions)


def score(
  config: DecoderConfig,
  prompt: int,
  completions: list[int],
  *,
  share_prompt: bool = True,
) -> int:
  """Of those log-probabilities themselves, by a model that does not learn."""
  layers = _layers(config, prompt, completions, share_prompt)
  return layers + head(config) * sum(completions)


def _layers(config, prompt: int, completions: list[int], share_prompt: bool):
  times = 1 if share_prompt else len(completions)
  # The last token of a completion predicts nothing.
  return times * forward(config, prompt) + sum(
    forward(config, max(n - 1, 0), context=prompt) for n in completions
  )
