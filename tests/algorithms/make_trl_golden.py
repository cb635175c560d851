"""Writes tests/golden/trl_losses.json: TRL's losses and their gradients.

Its own `GRPOTrainer._compute_loss` runs on a stand-in for the trainer, in
float64, with the log-probabilities of a few ragged completions as the only
parameters. Renew when TRL changes a loss, in an environment of its own (10 s):

  pip install trl==1.16.0 torch
  python tests/algorithms/make_trl_golden.py
"""

import collections
import json
import pathlib
import types

import torch
import trl
from trl.trainer.grpo_trainer import GRPOTrainer

PATH = pathlib.Path(__file__).parents[1] / 'golden' / 'trl_losses.json'
P, G, T = 2, 3, 5
LENGTHS = [5, 3, 1, 4, 5, 2]
MAX_TOKENS = 8
MAX_WEIGHT = 1.1
DEFAULT = {
  'loss_type': 'grpo', 'level': 'token', 'epsilon': 0.2, 'epsilon_high': 0.2,
  'beta': 0.0, 'weighted_kl': False, 'truncated': False,
}  # fmt: skip
CASES = {
  'grpo': {},
  'grpo_clip_higher': {'epsilon_high': 0.28},
  'grpo_kl': {'beta': 0.1},
  'grpo_weighted_kl': {'beta': 0.1, 'weighted_kl': True},
  'grpo_truncated': {'truncated': True},
  'bnpo': {'loss_type': 'bnpo'},
  'dapo': {'loss_type': 'dapo', 'epsilon_high': 0.28},
  'dr_grpo': {'loss_type': 'dr_grpo'},
  'cispo': {'loss_type': 'cispo', 'epsilon_high': 1.5},
  'gspo': {'level': 'sequence', 'epsilon': 0.04, 'epsilon_high': 0.05},
  'gspo_kl': {
    'level': 'sequence', 'epsilon': 0.04, 'epsilon_high': 0.05, 'beta': 0.1,
  },
}  # fmt: skip


class _Accelerator:
  """One process: what is gathered is what there is."""

  num_processes = 1

  def gather(self, x):
    return x

  def reduce(self, x, reduction):
    return x


def make_inputs() -> dict[str, torch.Tensor]:
  torch.manual_seed(0)

  def random(scale):
    return scale * torch.randn(P * G, T, dtype=torch.float64)

  behavior = -1 - random(1.0).abs()
  old = behavior + random(0.2)
  return {
    'behavior': behavior,
    'old': old,
    'logprobs': old + random(0.4),
    'reference': old + random(0.4),
    'advantages': torch.tensor([1.2, -0.7, -0.5, -1.1, 0.9, 0.2]).double(),
    'mask': (torch.arange(T) < torch.tensor(LENGTHS)[:, None]).double(),
  }


def run(inputs, case) -> dict:
  logprobs = inputs['logprobs'].clone().requires_grad_()
  mask = inputs['mask']
  weight = torch.exp(inputs['old'] - inputs['behavior']).clamp(max=MAX_WEIGHT)
  trainer = types.SimpleNamespace(
    _get_per_token_logps_and_entropies=lambda *_, **__: (
      logprobs, torch.zeros_like(logprobs), None
    ),
    accelerator=_Accelerator(),
    args=types.SimpleNamespace(
      delta=None,
      steps_per_generation=1,
      use_bias_correction_kl=case['weighted_kl'],
    ),
    aux_loss_enabled=False,
    beta=case['beta'],
    current_gradient_accumulation_steps=1,
    epsilon_high=case['epsilon_high'],
    epsilon_low=case['epsilon'],
    importance_sampling_level=case['level'],
    loss_type=case['loss_type'],
    max_completion_length=MAX_TOKENS,
    model=types.SimpleNamespace(training=True),
    off_policy_mask_threshold=None,
    top_entropy_quantile=1.0,
    use_vllm=case['truncated'],
    vllm_importance_sampling_correction=True,
    _entropy_bonus_enabled=False,
    _metrics={'train': collections.defaultdict(list)},
  )  # fmt: skip
  ids = torch.zeros(P * G, T, dtype=torch.long)
  batch = {
    'prompt_ids': ids,
    'prompt_mask': torch.ones_like(ids),
    'completion_ids': ids,
    'completion_mask': mask,
    'advantages': inputs['advantages'],
    'old_per_token_logps': inputs['old'],
    'ref_per_token_logps': inputs['reference'],
    'importance_sampling_ratio': weight,
    'num_items_in_batch': mask.sum(),
  }
  loss = GRPOTrainer._compute_loss(trainer, None, batch)
  loss.backward()
  metrics = trainer._metrics['train']
  return {
    **case,
    'loss': loss.item(),
    'gradient': logprobs.grad.tolist(),
    'clip_share': metrics.get('clip_ratio/region_mean', [None])[0],
    'kl': metrics.get('kl', [None])[0],
  }


def rounded(x):
  if isinstance(x, float):
    return round(x, 9)
  if isinstance(x, list):
    return [rounded(y) for y in x]
  if isinstance(x, dict):
    return {key: rounded(y) for key, y in x.items()}
  return x


def main():
  inputs = make_inputs()
  golden = {
    'made_by': f'tests/algorithms/make_trl_golden.py, trl {trl.__version__}',
    'group_size': G,
    'max_tokens': MAX_TOKENS,
    'max_weight': MAX_WEIGHT,
    'inputs': {name: x.tolist() for name, x in inputs.items()},
    'cases': {
      name: run(inputs, DEFAULT | case) for name, case in CASES.items()
    },
  }
  PATH.write_text(json.dumps(rounded(golden)) + '\n')
  for name, case in golden['cases'].items():
    print(f'{name:20} loss {case["loss"]:+.6f} clipped {case["clip_share"]}')


if __name__ == '__main__':
  main()
