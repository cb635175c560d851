"""The quickstart's base model and judge, made again from nothing."""

import hashlib
import itertools
import pathlib
import re
import shutil

import jax

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.data import prompts
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface, zoo
from rlpt_jax.programs import model_files
from rlpt_jax.programs.stages import Stages
from rlpt_jax.quickstart import lessons, vocabulary, world
from rlpt_jax.rewards import judge

MODEL = 'tiny_world'
VOCABULARY = 800
TEMPLATES = {'asr': prompts.ASR, 'msr': prompts.MSR}


def write_world(folder: pathlib.Path, **counts: int):
  """The world's files, with the prompts that we train with."""
  lessons.write(
    folder, templates=TEMPLATES, judge_template=judge.PROMPT, **counts
  )


def make(stages: Stages, workdir: pathlib.Path, *, seed: int):
  """Makes base/ and judge/ in a folder that has their gin files."""
  stages.do(
    'texts and pairs for the models, in world_of_models/',
    lambda: write_world(
      workdir / 'world_of_models', texts=40_000, pairs=120_000, seed=seed,
      demonstrations=0, held_out=500,
    ),
  )  # fmt: skip
  stages.do(
    'a tokenizer and random weights, in random/',
    lambda: write_random(workdir / 'random', seed=seed),
  )
  for name, what in (
    ('base', 'next-token training on texts'),
    ('judge', 'learning to judge, from pairs'),
  ):
    stages.run(
      f'{what}: {name}/', 'train_sft', f'{name}.gin', '--workdir',
      f'{name}_run',
    )  # fmt: skip
    stages.run(
      f'{name}/, half the size', 'convert', f'{name}_run/checkpoints', name,
      '--dtype', 'bfloat16', '--overwrite',
    )  # fmt: skip


def write_random(folder: pathlib.Path, *, seed: int):
  """A Hugging Face directory with a tokenizer and weights that know nothing."""
  some = list(itertools.islice(world.documents(seed), 4000))
  thoughts = [step.thought for d in some for step in d.steps if step]
  config = zoo.get(MODEL)
  specs = decoder_lib.specs(config)
  params = weights.init(specs, jax.random.key(seed), layout=make_layout())
  arrays = [
    (path, x.dtype, lambda x=x: jax.device_get(x))
    for path, x in weights.named(params)
  ]
  texts = [*(document.text for document in some), *thoughts]
  with model_files.new_directory(folder, overwrite=True) as directory:
    tokenizer = directory / 'tokenizer'
    vocabulary.write(tokenizer, texts, lines=fixed_lines(), size=VOCABULARY)
    huggingface.save(directory, config, specs, arrays, companions=tokenizer)
    shutil.rmtree(tokenizer)


def fixed_lines() -> list[str]:
  """What prompts always say between their places, and marks of answers."""
  pieces = [
    piece
    for template in TEMPLATES.values()
    for piece in re.split(r'\{\w+\}', template)
  ]
  # A blank before a sentence is the sentence's, as in a text.
  asked = [piece.rstrip(' ') for piece in re.split(r'\{\w+\}', judge.PROMPT)]
  marks = ['\n\n', lessons.START, lessons.END, 'Score: 0', 'Score: 1']
  return [piece for piece in [*pieces, *asked] if piece] + marks


def checksum(folder: pathlib.Path) -> str:
  """Of the weights in a directory."""
  data = (folder / 'model.safetensors').read_bytes()
  return hashlib.sha256(data).hexdigest()
