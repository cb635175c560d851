"""Trains the quickstart's base model and judge from scratch."""

import hashlib
import itertools
import json
import pathlib
import re
import shutil

import jax

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.data import prompts
from rlpt_jax.inference import judges, model_files
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface, zoo
from rlpt_jax.quickstart import lessons, truth, vocabulary, world
from rlpt_jax.quickstart.stages import Stages
from rlpt_jax.rewards import extract, judge

MODEL = 'tiny_world'
VOCABULARY = 800
PURPOSES = {
  'base': 'next-token training on the texts of a small world',
  'judge': 'learning to judge what is said of a small world',
}
TEMPLATES = {'asr': prompts.ASR, 'msr': prompts.MSR}
TAGS = extract.START, extract.END


def write_world(
  folder: pathlib.Path,
  *,
  dials: world.Dials = world.Dials(),
  seed: int = 0,
  **counts: int,
):
  """Writes the world's files, with the prompts and tags used in training."""
  lessons.write(
    folder, templates=TEMPLATES, judge_template=judge.PROMPT, tags=TAGS,
    dials=dials, seed=seed, **counts,
  )  # fmt: skip


def make(stages: Stages, workdir: pathlib.Path, *, seed: int):
  """Trains base/ and judge/ in a folder that has their gin files."""
  stages.do(
    'texts and pairs for the models, in world_of_models/',
    lambda: write_world(
      workdir / 'world_of_models', texts=60_000, worked=120_000, noted=60_000,
      reworded=30_000, held_out=500, pairs=120_000, held_out_pairs=2_000,
      seed=seed,
    ),
  )  # fmt: skip
  stages.do(
    'a tokenizer and random weights, in random/',
    lambda: write_random(workdir / 'random', seed=seed),
  )
  for name, title in PURPOSES.items():
    run = f'{name}_run'
    stages.run(title, 'train_sft', f'{name}.gin', '--workdir', run)
    stages.run(
      f'{name}/, stored in half the size', 'convert', f'{run}/checkpoints',
      name, '--dtype', 'bfloat16', '--overwrite',
    )  # fmt: skip
    describe(workdir, name, seed=seed)


def describe(workdir: pathlib.Path, name: str, *, seed: int):
  """Writes the README.md of a trained model, with its measured quality."""
  folder = workdir / name
  last = (
    (workdir / f'{name}_run' / 'metrics.jsonl').read_text().splitlines()[-1]
  )
  measured = f'held-out loss {json.loads(last)["held_out/loss"]:.3f}'
  if name == 'judge':
    pairs = workdir / 'world_of_models' / 'held_out_pairs.jsonl'
    measured = str(truth.agreement(open_judge(folder), pairs))
  config = model_files.find(folder).config
  (folder / 'README.md').write_text(f"""\
# {name}: {PURPOSES[name]}

{model_files.describe(config)}, in bfloat16. It knows the small world of
`rlpt quickstart` (rlpt_jax/quickstart/world.py) and nothing else: all that it
learned from was made by that generator.

- command: `rlpt quickstart --from_scratch --seed {seed}`
- recipe: {name}.gin, `rlpt train_sft`, then `rlpt convert --dtype bfloat16`
- measured, on held-out documents: {measured}
- sha256 of model.safetensors: {checksum(folder)}
""")


def open_judge(folder: pathlib.Path) -> judges.Weighing:
  """Returns the judge with the settings of the quickstart."""
  return judges.Weighing(
    model=str(folder), chat=False, dtype='float32', rows=32
  )


def write_random(folder: pathlib.Path, *, seed: int):
  """Writes a Hugging Face directory with a tokenizer and random weights."""
  some = list(itertools.islice(world.documents(seed), 4000))
  thoughts = [f' {step.thought}' for d in some for step in d.steps if step]
  config = zoo.get(MODEL)
  specs = decoder_lib.specs(config)
  params = weights.init(specs, jax.random.key(seed), layout=make_layout())
  # With larger embeddings and smaller layer outputs at the start, a model this
  # small learns to copy in half the steps. All else that it learns builds on
  # copying.
  scales = {'embed': 4.0, 'layers/w_o': 0.35, 'layers/w_down': 0.35}
  arrays = [
    (path, x.dtype, lambda x=x: jax.device_get(x))
    for path, x in weights.named(
      weights.map_named(lambda path, x: x * scales.get(path, 1.0), params)
    )
  ]
  texts = [*(document.text for document in some), *thoughts]
  with model_files.new_directory(folder, overwrite=True) as directory:
    tokenizer = directory / 'tokenizer'
    vocabulary.write(tokenizer, texts, lines=fixed_lines(), size=VOCABULARY)
    huggingface.save(directory, config, specs, arrays, companions=tokenizer)
    shutil.rmtree(tokenizer)


def fixed_lines() -> list[str]:
  """Returns the fixed texts of prompts and responses, one token for each."""
  pieces = [
    piece
    for template in TEMPLATES.values()
    for piece in re.split(r'\{\w+\}', template)
  ]
  # Leave out the space before a placeholder, because the tokenizer joins it to
  # the sentence that replaces the placeholder, as between sentences of a text.
  judge_pieces = [
    piece.rstrip(' ') for piece in re.split(r'\{\w+\}', judge.PROMPT)
  ]
  marks = ['\n\n', *TAGS, 'Score: 0', 'Score: 1']
  return [piece for piece in [*pieces, *judge_pieces] if piece] + marks


def checksum(folder: pathlib.Path) -> str:
  """Returns the SHA-256 of the weights in a directory."""
  data = (folder / 'model.safetensors').read_bytes()
  return hashlib.sha256(data).hexdigest()
