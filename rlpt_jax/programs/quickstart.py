"""Runs all stages of RLPT in minutes on a CPU, from files in the repository."""

import json
import pathlib
import shutil
import sys
import textwrap
import time

from rlpt_jax import quickstart as files
from rlpt_jax.completions.options import check_options
from rlpt_jax.quickstart import small_models, truth
from rlpt_jax.quickstart.stages import Stages

FILES = pathlib.Path(files.__file__).parent
SAMPLES = 4  # Per held-out question.


def quickstart(
  workdir: pathlib.Path = pathlib.Path('runs/quickstart'),
  *,
  steps: int = 60,
  questions: int = 200,
  seed: int = 0,
  from_scratch: bool = False,
):
  """Runs all stages of RLPT in minutes on a CPU.

  It starts from a small world of text, a tiny base model, and a tiny judge of
  statements about that world. The stages are a cold start on demonstrations; RL
  on raw text with the judge's reward; a check of how many held-out predictions
  are true in that world; and an export for transformers. Each stage is a
  command, shown before it runs. If quickstart is stopped, run it again to
  continue.

  Args:
    workdir: The folder for all output.
    steps: The number of RL steps.
    questions: The number of held-out sentences that the policies predict.
    seed: The seed of the world's documents, of training and of sampling.
    from_scratch: Trains the base model and the judge too, which takes half an
      hour more.
  """
  check_options(steps=(steps, 1, None), questions=(questions, 1, None))
  begun = time.monotonic()
  stages = Stages(
    workdir,
    {
      'steps': steps, 'questions': questions, 'seed': seed,
      'from_scratch': from_scratch,
    },
  )  # fmt: skip
  for path in sorted(FILES.glob('*.gin')):
    if not (workdir / path.name).exists():  # The user may have edited it.
      shutil.copy(path, workdir)

  print(f'The commands shown below run in {workdir}/.')
  world = workdir / 'world'
  stages.do(
    'A small world of text: world/',
    lambda: small_models.write_world(
      world, texts=4000, demonstrations=8000, held_out=questions,
      questions=questions, held_out_pairs=4 * questions, seed=seed,
    ),
  )  # fmt: skip
  show_a_document(world)

  if from_scratch:
    small_models.make(stages, workdir, seed=seed)
  else:
    for name in ('base', 'judge'):
      shutil.copytree(FILES / name, workdir / name, dirs_exist_ok=True)
  agreement = stages.do(
    'How far can the judge be trusted? Judge and truth, on held-out pairs',
    lambda: str(
      truth.agreement(
        small_models.open_judge(workdir / 'judge'),
        world / 'held_out_pairs.jsonl',
      )
    ),
  )
  print(f'   {agreement}')

  stages.run(
    'Cold start: demonstrations; some think, most guess and are often wrong',
    'train_sft', 'cold_start.gin', f'train_sft.Config.seed = {seed}',
    '--workdir', 'cold_start',
  )  # fmt: skip
  before = predict(stages, workdir, 'cold_start', questions)
  stages.run(
    'RLPT: raw text, the judge as the reward',
    'train_rl', 'rlpt.gin', f'train_rl.Config.num_steps = {steps}',
    f'train_rl.Config.seed = {seed}', '--workdir', 'rlpt',
  )  # fmt: skip
  after = predict(stages, workdir, 'rlpt', questions)
  stages.run(
    'The model for transformers: exported/',
    'convert', 'rlpt/checkpoints', 'exported', '--overwrite',
  )  # fmt: skip

  stages.run(
    'A page with curves and rollouts: report.html',
    'report', 'rlpt', 'cold_start', '--out', 'report.html',
  )  # fmt: skip

  # A command that also works if the environment is not active.
  rlpt = shutil.which('rlpt') or pathlib.Path(sys.executable).with_name('rlpt')
  print(f"""
Done in {time.monotonic() - begun:.0f} seconds, in {workdir}/. The result:
   {before['all']:6.1%}  of held-out sentences are right after the cold start,
   {after['all']:6.1%}  after RLPT, measured by the truth, not by the judge.
   The judge: {agreement}.

Open {workdir / 'report.html'}
Next: cd {workdir}, change a line of rlpt.gin (samples = 4, say), and run
   {rlpt} train_rl rlpt.gin --workdir mine
   {rlpt} report rlpt mine --out mine.html""")


def show_a_document(world: pathlib.Path):
  """Prints the first document of the world."""
  with (world / 'texts.jsonl').open() as file:
    text = json.loads(file.readline())['text']
  print(textwrap.fill(text, 76, initial_indent='   ', subsequent_indent='   '))


def generate_command(name: str) -> tuple[str, ...]:
  """Returns the command that answers the held-out questions with a policy."""
  return (
    'generate', f'{name}/checkpoints', '--prompts', 'world/questions.jsonl',
    '--out', f'{name}/answers.jsonl', '-n', str(SAMPLES),
    '--max_new_tokens', '64', '--slots', '256',
  )  # fmt: skip


def predict(
  stages: Stages, workdir: pathlib.Path, name: str, questions: int
) -> dict[str, float]:
  """Samples predictions; returns {kind of example: the share that is true}."""
  stages.run(
    f'{questions} held-out sentences, predicted by {name}/',
    *generate_command(name),
  )
  both = workdir / 'world' / 'questions.jsonl', workdir / name / 'answers.jsonl'
  shares = truth.accuracy(*both)
  names = sorted(shares, key=('all', 'asr', 'msr').__contains__, reverse=True)
  shown = ', '.join(f'{name} {shares[name]:.0%}' for name in names)
  print(f'   right, according to the truth: {shown}')
  print(f'   {truth.thinking_stats(*both)}')
  return shares
