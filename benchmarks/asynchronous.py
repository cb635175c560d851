"""Speed of asynchronous training against synchronous, on the same devices.

    python benchmarks/asynchronous.py --lengths tail
    python benchmarks/asynchronous.py --lengths equal

Trains a tiny random model by `train_rl` with each schedule in turn, and prints
a line of JSON. step_s is the mean time of a step, without the first third,
which compiles and fills the stream; it is no median, because a stream samples
more in some steps than in others. slots_in_use is the share of a decode
step's rows that sampled a token. `ratio` is steps per second relative to
`synchronous`, in the same round; the median of the rounds.

--lengths tail: 1 in 16 completions runs to the limit, the others are log-normal
around an eighth of it (sigma 0.5). equal: all run to the limit.

--slots: for each schedule, the best of these counts is reported, as a user
would choose it. All counts are in `all`.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import pathlib
import statistics
import tempfile

from rlpt_jax.core.layout import Axes
from rlpt_jax.data.config import Data
from rlpt_jax.data.sources import Files
from rlpt_jax.data.tasks import Rlvr
from rlpt_jax.models.config import Compute
from rlpt_jax.programs.train_rl import Config, Hardware, train_rl
from rlpt_jax.rewards import scores
from rlpt_jax.rollout import schedules
from rlpt_jax.rollout.rollout_files import Kept
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.schedules import Pipelined
from rlpt_jax.runs.run_folder import Saving
from rlpt_jax.training.optimizer import AdamW

ONE_DEVICE = Axes(devices=1)


@dataclasses.dataclass(frozen=True)
class SetLengths(Sampling):
  """Samples completions of lengths that are drawn by their names."""

  has_tail: bool = True

  def request(self, example, name, tokenizer, seed):
    request = super().request(example, name, tokenizer, seed)
    lengths = tuple(self._length(f'{name}/{i}') for i in range(request.samples))
    # Nothing ends earlier: there are no stops.
    return dataclasses.replace(request, max_new_tokens=lengths, stops=())

  def _length(self, name: str) -> int:
    longest = self.max_new_tokens
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    if not self.has_tail or digest[0] < 16:
      return longest
    uniform = (int.from_bytes(digest[1:8], 'big') + 0.5) / 2**56
    normal = statistics.NormalDist().inv_cdf(uniform)
    return min(longest, max(1, round(longest / 8 * math.exp(0.5 * normal))))


def by_length(examples, completions):
  return scores.Each(
    lambda example, text: scores.Verdict(len(text) % 3 / 2, 'length')
  )(examples, completions)


def make_config(arguments, questions: pathlib.Path, schedule, slots: int):
  source = Files(name='questions', files=str(questions))
  return Config(
    model=arguments.model,
    data=Data(corpora=[source], task=Rlvr(template='{question}=')),
    reward=by_length,
    optimizer=AdamW(learning_rate=1e-4),
    num_steps=arguments.steps,
    prompts=arguments.prompts,
    sampling=SetLengths(
      samples=arguments.samples,
      max_new_tokens=arguments.longest,
      has_tail=arguments.lengths == 'tail',
    ),
    max_prompt_tokens=64,
    schedule=schedule,
    compute=Compute(dtype='float32'),
    hardware=Hardware(
      layout=ONE_DEVICE,
      sampler_layout=ONE_DEVICE,
      slots=slots,
      num_microbatches=arguments.microbatches,
      lengths=arguments.compiled,
    ),
    saving=Saving(every=10**6),
    rollouts=Kept(last=1, every=None),
  )


def measure(config) -> dict[str, float]:
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    train_rl(config, workdir=workdir)
    timing, metrics = (
      [json.loads(line) for line in (workdir / name).read_text().splitlines()][
        config.num_steps // 3 :
      ]
      for name in ('timing.jsonl', 'metrics.jsonl')
    )

  def mean(lines, key):
    return statistics.mean(line[key] for line in lines)

  return {
    'step_s': round(mean(timing, 'timing/step_s'), 4),
    'rollout_s': round(mean(timing, 'timing/rollout_s'), 4),
    'update_s': round(mean(timing, 'timing/update_s'), 4),
    'slots_in_use': round(mean(timing, 'timing/slots_in_use'), 3),
    'staleness': round(mean(metrics, 'staleness/mean'), 2),
  }


def main(arguments) -> dict:
  all_schedules = {'synchronous': schedules.synchronous}
  for k in arguments.staleness:
    for after in arguments.after_update:
      all_schedules[f'pipelined_{k}_{after}'] = Pipelined(
        max_staleness=k, after_update=after
      )
  found: dict[str, list] = {name: [] for name in all_schedules}
  with tempfile.TemporaryDirectory() as folder:
    questions = pathlib.Path(folder) / 'questions.jsonl'
    questions.write_text(
      ''.join(
        json.dumps({'question': f'{i:012}', 'answer': '0'}) + '\n'
        for i in range(4096)
      )
    )
    for _ in range(arguments.rounds):
      for name, schedule in all_schedules.items():
        tried = {
          slots: measure(make_config(arguments, questions, schedule, slots))
          for slots in arguments.slots
        }
        found[name].append(tried)
  results = {}
  for name, rounds in found.items():
    bests = [min(t, key=lambda slots: t[slots]['step_s']) for t in rounds]
    ratios = [
      min(x['step_s'] for x in base.values())
      / min(x['step_s'] for x in tried.values())
      for base, tried in zip(found['synchronous'], rounds, strict=True)
    ]
    results[name] = {
      'ratio': round(statistics.median(ratios), 3),
      'slots': bests[0],
      **rounds[0][bests[0]],
    }
  return {'results': results, 'all': found, 'arguments': vars(arguments)}


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--lengths', choices=('tail', 'equal'), default='tail')
  parser.add_argument('--model', default='random:tiny_qwen3')
  parser.add_argument('--prompts', type=int, default=16)
  parser.add_argument('--samples', type=int, default=8)
  parser.add_argument('--longest', type=int, default=512)
  parser.add_argument('--microbatches', type=int, default=4)
  parser.add_argument(
    '--compiled', type=int, default=1, help='Hardware.lengths'
  )
  parser.add_argument('--slots', type=int, nargs='+', default=[32, 64, 128])
  parser.add_argument('--steps', type=int, default=24)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--staleness', type=int, nargs='+', default=[4])
  parser.add_argument(
    '--after_update', nargs='+', default=['recompute', 'keep']
  )
  print(json.dumps(main(parser.parse_args())))
