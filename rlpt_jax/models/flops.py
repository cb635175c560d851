"""FLOP counts of a model, to compare methods at equal compute.

Only the matrix products that are needed are counted: a token attends to itself
and the tokens before it, only the chosen experts are computed, and padding is
free. A multiplication and its addition are two FLOPs. For a token that sees k
keys (itself included), one forward pass takes

  2 W          for the W weights that multiply it (`layer_weights`)
  4 L N H k    for its scores, and for the weighted sum of values
  2 V D        for its logits, if the head is applied to it

A backward pass takes twice as many as its forward pass. Recomputing a layer
(remat) takes one more forward pass of that layer.
"""

import math

from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import DecoderConfig


def forward(
  config: DecoderConfig, tokens: int, *, context: int = 0, read: int = 0
) -> int:
  """FLOPs of a forward pass of `tokens` tokens after `context` earlier ones.

  The head is applied to `read` of the tokens.
  """
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

  The prefill leaves out the last token of the prompt: each row computes it.
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
  """FLOPs of the forward and backward pass of one prompt's completions."""
  layers = _layers(config, prompt, completions, share_prompt)
  again = layers if remat == 'layer' else 0
  # The head counts 4 times: forward, recomputed logits, and 2 for backward.
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
