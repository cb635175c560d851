"""The whole story of RLPT in minutes on a CPU, from files in the repository."""

import json
import pathlib
import shutil
import sys
import textwrap
import time

from rlpt_jax import quickstart as files
from rlpt_jax.programs import small_models, truth
from rlpt_jax.programs.generate import check_options
from rlpt_jax.programs.stages import Stages

FILES = pathlib.Path(files.__file__).parent
SAMPLES = 4  # Of each held-out question.


def quickstart(
  workdir: pathlib.Path = pathlib.Path('runs/quickstart'),
  *,
  steps: int = 60,
  questions: int = 200,
  seed: int = 0,
  from_scratch: bool = False,
):
  """Tells the whole story of RLPT in minutes on a CPU.

  A small world of text, a tiny base model and a tiny judge of what is said of
  that world; a cold start from demonstrations; RL on raw text with the judge's
  reward; how often held-out sentences are predicted right, by the truth; and
  the model for transformers. Each stage is a command, shown before it runs.
  Stopped at any moment and started again it goes on.

  Args:
    workdir: Where everything goes.
    steps: Steps of RL.
    questions: Held-out sentences that the policies predict.
    seed: Seed of the world's documents, of training and of sampling.
    from_scratch: Makes the base model and the judge too, half an hour more.
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
    if not (workdir / path.name).exists():  # It may have been changed there.
      shutil.copy(path, workdir)

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
    'How far can the judge be trusted? It and the truth, on held-out pairs',
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
    'A page to look at, rollouts too: report.html',
    'report', 'rlpt', 'cold_start', '--out', 'report.html',
  )  # fmt: skip

  # As it can be typed, also where the environment is not active.
  rlpt = shutil.which('rlpt') or pathlib.Path(sys.executable).with_name('rlpt')
  print(f"""
In {time.monotonic() - begun:.0f} seconds, in {workdir}/. What matters:
   {before['all']:6.1%}  of held-out sentences are right after the cold start,
   {after['all']:6.1%}  after RLPT: by the truth, not only by the judge.
   The judge: {agreement}.

Look at {workdir / 'report.html'}
Next: cd {workdir}, change a line of rlpt.gin (samples = 4, say), and
   {rlpt} train_rl rlpt.gin --workdir mine
   {rlpt} report rlpt mine""")


def show_a_document(world: pathlib.Path):
  """Prints the first text."""
  with (world / 'texts.jsonl').open() as file:
    text = json.loads(file.readline())['text']
  print(textwrap.fill(text, 76, initial_indent='   ', subsequent_indent='   '))


def answering(name: str) -> tuple[str, ...]:
  """The command by which a policy answers the held-out questions."""
  return (
    'generate', f'{name}/checkpoints', '--prompts', 'world/questions.jsonl',
    '--out', f'{name}/answers.jsonl', '-n', str(SAMPLES),
    '--max_new_tokens', '64', '--slots', '256',
  )  # fmt: skip


def predict(
  stages: Stages, workdir: pathlib.Path, name: str, questions: int
) -> dict[str, float]:
  """How often a policy's predictions are true: of all, and by kind."""
  stages.run(
    f'{questions} held-out sentences, predicted by {name}/', *answering(name)
  )
  both = workdir / 'world' / 'questions.jsonl', workdir / name / 'answers.jsonl'
  found = truth.accuracy(*both)
  names = sorted(found, key=('all', 'asr', 'msr').__contains__, reverse=True)
  shown = ', '.join(f'{name} {found[name]:.0%}' for name in names)
  print(f'   right, by the truth: {shown}')
  print(f'   {truth.manners(*both)}')
  return found
