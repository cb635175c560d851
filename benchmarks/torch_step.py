"""Times a GRPO step of transformers and torch, for accelerator.py to compare.

    python benchmarks/torch_step.py '{"vocab_size": 4096, ...}' P G S T

The first argument is a Qwen3Config as JSON. Then come the numbers of prompts,
of completions of each, of tokens of a prompt, and of tokens of a completion.
Prints a line of JSON.

The step samples with `generate`, scores all rows and updates the weights, as a
trainer without an inference engine does. To favour torch, everything is
bfloat16, its optimizer's state too, and nothing is rematerialized. Ours keeps
float32 weights.
"""

import json
import sys
import time

import torch
import transformers


def main():
  config = transformers.Qwen3Config(**json.loads(sys.argv[1]))
  P, G, S, T = map(int, sys.argv[2:])
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  with torch.device(device):
    model = transformers.Qwen3ForCausalLM(config).to(torch.bfloat16)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
  prompts = torch.randint(config.vocab_size, (P, S), device=device)
  advantages = torch.randn(P * G, device=device)

  def step(T):
    start = now(device)
    rows = generate(model, prompts.repeat_interleave(G, dim=0), T)
    sampled = now(device)
    update(model, optimizer, rows, advantages, T)
    return sampled - start, now(device) - sampled

  step(2)  # Loads libraries and kernels.
  sample_s, learn_s = step(T)
  print(
    json.dumps({'sample_s': round(sample_s, 3), 'learn_s': round(learn_s, 3)})
  )


def now(device) -> float:
  if device == 'cuda':
    torch.cuda.synchronize()
  return time.perf_counter()


@torch.no_grad()
def generate(model, prompts, T):
  return model.generate(
    prompts, attention_mask=torch.ones_like(prompts), do_sample=True,
    temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=T, min_new_tokens=T,
    eos_token_id=None, pad_token_id=0,
  )  # fmt: skip


def update(model, optimizer, rows, advantages, T, *, rows_at_a_time=8):
  pairs = zip(
    rows.split(rows_at_a_time), advantages.split(rows_at_a_time), strict=True
  )
  for some, weights in pairs:
    # The logits that predict the completion.
    logits = model(some[:, :-1], logits_to_keep=T).logits.float()
    logprobs = logits.log_softmax(-1).gather(-1, some[:, -T:, None])
    loss = -(weights[:, None, None] * logprobs).sum() / (len(rows) * T)
    loss.backward()
  optimizer.step()
  optimizer.zero_grad()


if __name__ == '__main__':
  main()
