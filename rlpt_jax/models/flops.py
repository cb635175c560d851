"""FLOP counts of a model, to compare methods at equal compute.

They count the matrix products that are needed, a multiplication and an addition
each: a token attends to itself and the tokens before it, only the chosen
experts are computed, and padding is free. For a token that sees k keys (itself
included), one forward pass takes

  2 W                  W: weights of the products that it passes through
  4 L N H k            scores, and the weighted sum of values

and 2 V D if the head reads it. A backward pass takes twice its forward pass,
and recomputing a layer (remat) takes one more forward pass of it.
"""

import math

from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import DecoderConfig


def forward(
  config: DecoderConfig, tokens: int, *, context: int = 0, read: int = 0
) -> int:
  """FLOPs of `tokens` tokens after a context, with a head on `read` of them."""
  c = config
  keys = tokens * context + tokens * (tokens + 1) // 2
  attention = 4 * c.num_layers * c.num_heads * c.head_dim * keys
  return 2 * layer_weights(c) * tokens + attention + head(c) * read


def head(config: DecoderConfig) -> int:
  """FLOPs of the head for one token."""
  return 2 * config.vocab_size * config.embed_dim


def layer_weights(config: DecoderConfig) -> int:
  """The number of weights that one token is multiplied by, without the head."""
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
  """FLOPs to sample completions of one prompt, which is prefilled once.

  The last token of the prompt is computed again in each row.
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
  """FLOPs of the gradient of one prompt's completion log-probabilities."""
  layers = _layers(config, prompt, completions, share_prompt)
  again = layers if remat == 'layer' else 0
  # The head takes 4: forward, recomputed logits, and a backward pass of 2.
  return 3 * layers + again + 4 * head(config) * sum(completions)


def score(
  config: DecoderConfig,
  prompt: int,
  completions: list[int],
  *,
  share_prompt: bool = True,
) -> int:
  """FLOPs of the log-probabilities of one prompt's completions, no gradient."""
  layers = _layers(config, prompt, completions, share_prompt)
  return layers + head(config) * sum(completions)


def _layers(config, prompt: int, completions: list[int], share_prompt: bool):
  times = 1 if share_prompt else len(completions)
  # The last token of a completion predicts nothing.
  return times * forward(config, prompt) + sum(
    forward(config, max(n - 1, 0), context=prompt) for n in completions
  )
