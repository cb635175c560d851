"""The whole story in minutes on a CPU: for now, a model that goes around."""

import pathlib

import jax

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface, zoo
from rlpt_jax.programs import model_files
from rlpt_jax.programs.convert import convert
from rlpt_jax.programs.generate import generate


def quickstart(
  workdir: pathlib.Path = pathlib.Path('runs/quickstart'),
  *,
  model: str = 'tiny_qwen3',
  seed: int = 0,
):
  """Makes a tiny random model, converts it there and back, samples from it.

  Args:
    workdir: Where everything goes; what an earlier quickstart left is replaced.
    model: A name from rlpt_jax/models/zoo.py; its weights are random.
    seed: Of the weights and of the samples.
  """
  config = zoo.get(model)
  print(f'1. a random {model}: {model_files.describe(config)}')
  specs = decoder_lib.specs(config)
  params = weights.init(specs, jax.random.key(seed), layout=make_layout())
  arrays = [
    (path, x.dtype, lambda x=x: jax.device_get(x))
    for path, x in weights.named(params)
  ]
  source = workdir / 'huggingface'
  with model_files.new_directory(source, overwrite=True) as directory:
    huggingface.save(directory, config, specs, arrays)

  print('2. to a checkpoint and back')
  checkpoint, back = workdir / 'checkpoint', workdir / 'huggingface_again'
  convert(source, checkpoint, overwrite=True)
  convert(checkpoint, back, overwrite=True)
  weights_file = 'model.safetensors'
  if (source / weights_file).read_bytes() != (back / weights_file).read_bytes():
    raise RuntimeError(
      f'{back} differs from {source}: a bug, please report it.'
    )
  print('   the weights came back byte for byte')

  print('3. two completions of each prompt, from the checkpoint')
  prompts, out = workdir / 'prompts.txt', workdir / 'completions.jsonl'
  prompts.write_text('The lamp was lit.\nShe counted again:\n')
  generate(
    checkpoint, prompts=prompts, out=out, tokenizer='bytes', n=2, seed=seed,
    max_new_tokens=32, overwrite=True,
  )  # fmt: skip
  print(f'   (random weights say nothing yet) next: head -1 {out}')
