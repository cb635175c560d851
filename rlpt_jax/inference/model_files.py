"""Finds and loads a model on disk, or a random one.

A model is a Hugging Face directory, or a checkpoint directory, which keeps
tokenizer and config files under `assets/`. 'random:NAME' is a model of the zoo,
with weights that follow from a seed.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

import jax

from rlpt_jax.core import tokenizer as tokenizer_lib
from rlpt_jax.core import weights
from rlpt_jax.core.layout import Layout, make_layout
from rlpt_jax.core.run_files import CHECKPOINTS, CONFIG
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface, zoo
from rlpt_jax.models.config import Compute, Decoder, DecoderConfig
from rlpt_jax.training.checkpoints import Store

# The folder of tokenizer files and the original config.json, beside the steps.
ASSETS = tokenizer_lib.ASSETS
RANDOM = 'random:'


@dataclasses.dataclass(frozen=True)
class ModelFiles:
  """The path and config of a model; `load_params` reads its weights."""

  path: pathlib.Path
  config: DecoderConfig
  is_checkpoint: bool
  step: int | None  # The step that was asked for; None: the newest.
  found_step: int | None = None  # The step that the config was read from.

  @property
  def assets(self) -> pathlib.Path:
    return self.path / ASSETS if self.is_checkpoint else self.path

  @property
  def name(self) -> str:
    """The absolute path, the same from any working directory."""
    return str(self.path.resolve())

  def load_params(self, *, layout: Layout, dtype='float32', seed: int = 0):
    """Returns the sharded parameters; only a random model uses `seed`."""
    specs = decoder_lib.specs(self.config)
    if not self.is_checkpoint:
      return huggingface.load(self.path, specs, layout=layout, dtype=dtype)
    shapes = weights.shapes(specs, layout=layout, dtype=dtype)
    with Store(self.path, read_only=True) as store:
      return store.restore({'params': shapes}, step=self.step).trees['params']

  def decoder(self, *, dtype: str, tensor: int = 1) -> Decoder:
    """Returns a decoder on all devices, for scoring or sampling.

    Every `tensor` devices share one copy of the weights. The weights are not
    sharded over the batch axes, or else they would have to be gathered again
    for every chunk of tokens that is decoded.
    """
    if tensor < 1 or jax.device_count() % tensor:
      raise ValueError(
        f'--tensor={tensor}: expected a divisor of {jax.device_count()}, the '
        'number of devices.'
      )
    layout = make_layout(data=-1, fsdp=1, tensor=tensor)
    return Decoder(self.config, Compute(dtype=dtype), layout)

  def warn_of_length(self, prompt_tokens: int, new_tokens: int):
    """Warns if texts may become longer than those the model was trained on."""
    longest = self.config.max_length
    if prompt_tokens + new_tokens > longest:
      print(
        f'warning: {prompt_tokens:,} prompt tokens and {new_tokens:,} new '
        f'ones are more than the {longest:,} that {self.path} was trained '
        'with; output beyond that may be poor.',
        file=sys.stderr,
      )

  def has_tokenizer(self) -> bool:
    return tokenizer_lib.has_tokenizer(self.assets)

  def eos_ids(self) -> tuple[int, ...]:
    """Returns the EOS ids that are named in the files beside the weights."""
    for name in ('generation_config.json', 'config.json'):
      path = self.assets / name
      content = json.loads(path.read_text()) if path.exists() else {}
      eos = content.get('eos_token_id')
      if eos is not None:
        return tuple(eos) if isinstance(eos, list) else (eos,)
    return ()

  def tokenizer_source(self, named: str | None = None) -> str:
    """Returns where to load the tokenizer from: `named`, or the model's own."""
    if named or self.has_tokenizer():
      return named or str(self.assets)
    try:
      tokenizer_lib.load(self.assets)
    except ValueError as error:
      raise ValueError(
        f'{error} Name one with --tokenizer, or in a gin file with '
        'config.Data.tokenizer.'
      ) from error
    raise AssertionError('has_tokenizer() found none, but one was loaded')

  def load_tokenizer(self, named: str | None = None) -> Tokenizer:
    """Loads the model's own tokenizer, or the one `named` ('bytes' or a path).

    Raises if its ids differ from those of the model.
    """
    loaded = tokenizer_lib.load(self.tokenizer_source(named))
    self.check_tokenizer(loaded, named)
    return loaded

  def check_tokenizer(self, tokenizer: Tokenizer, named: str | None):
    """Raises if the ids of a tokenizer differ from those of the model.

    named: where the tokenizer is from; None for the model's own.
    """
    if tokenizer.vocab_size > self.config.vocab_size:
      raise ValueError(
        f'{self.path}: the vocabulary of the model has '
        f'{self.config.vocab_size} tokens, that of its tokenizer '
        f'{named or self.assets} has {tokenizer.vocab_size}. Is this its '
        'tokenizer?'
      )
    if not named or not self.has_tokenizer():
      return
    if tokenizer_lib.folder(named).resolve() == self.assets.resolve():
      return
    own = tokenizer_lib.load(self.assets)
    if difference := tokenizer_lib.difference(own, tokenizer):
      raise ValueError(
        f"{self.path}: the tokenizer {named} differs from the model's, which "
        f"is in {self.assets}: {difference}. Name none to use the model's; if "
        'the model was trained with the other one, put the files of that one '
        'there.'
      )


@dataclasses.dataclass(frozen=True)
class RandomModel(ModelFiles):
  """A model of the zoo with random weights; its tokens are bytes by default."""

  @property
  def assets(self) -> None:
    return None

  @property
  def name(self) -> str:
    return str(self.path)

  def load_params(self, *, layout: Layout, dtype='float32', seed: int = 0):
    specs = decoder_lib.specs(self.config)
    return weights.init(specs, jax.random.key(seed), layout=layout, dtype=dtype)

  def has_tokenizer(self) -> bool:
    return False

  def eos_ids(self) -> tuple[int, ...]:
    return ()

  def tokenizer_source(self, named: str | None = None) -> str:
    return named or 'bytes'


def find(path: str | pathlib.Path, *, step: int | None = None) -> ModelFiles:
  """Returns the files of a model.

  step: a checkpoint of a checkpoint directory; by default the newest.
  """
  name = str(path).removeprefix(RANDOM)
  if name != str(path):
    if step is not None:
      raise ValueError(f'{path}: a random model has no step {step}.')
    config = zoo.get(name)
    return RandomModel(
      pathlib.Path(path), config, is_checkpoint=False, step=None
    )
  path = pathlib.Path(path)
  if not path.is_dir():
    raise ValueError(
      f'{path}: no such directory. Expected a Hugging Face directory or a '
      'directory of checkpoints.'
    )
  if (path / CHECKPOINTS).is_dir() and (path / CONFIG).exists():
    raise ValueError(
      f'{path}: is the folder of a run; its model is {path / CHECKPOINTS}.'
    )
  if huggingface.is_directory(path):
    if step is not None:
      raise ValueError(f'{path}: a Hugging Face directory has no step {step}.')
    config = huggingface.load_config(path)
    return ModelFiles(path, config, is_checkpoint=False, step=None)
  with Store(path, read_only=True) as store:
    found_step, record = store.record(step=step)
  if 'model' not in record:
    raise ValueError(
      f'{path}: the record of step {found_step} names no model; it has '
      f'{sorted(record)}. Was it written by rlpt?'
    )
  config = DecoderConfig.from_dict(record['model'])
  return ModelFiles(
    path, config, is_checkpoint=True, step=step, found_step=found_step
  )


def keep_assets(files: ModelFiles, tokenizer: str, target: pathlib.Path):
  """Copies the model's config.json, and the files of the tokenizer in use."""
  source = None if tokenizer == 'bytes' else tokenizer_lib.folder(tokenizer)
  config = files.assets and files.assets / 'config.json'
  if config and config.exists():
    shutil.copyfile(config, target / config.name)
  if source is None:
    (target / tokenizer_lib.BYTES_FILE).write_text(
      'A byte is its id; 256 ends a text, 257 pads, 258 begins a text.\n'
    )
  elif source.is_file():
    shutil.copyfile(source, target / 'tokenizer.model')
  else:
    huggingface.copy_companions(source, target)


def describe(config: DecoderConfig) -> str:
  """Describes a model: 'qwen3, 4,022,468,096 parameters'."""
  count = weights.count(decoder_lib.specs(config))
  return f'{config.family}, {count:,} parameters'


def is_written(path: pathlib.Path) -> bool:
  """Returns True if a directory is empty or holds only a converted model."""
  if not path.is_dir():
    return False
  names = {entry.name for entry in path.iterdir()}
  # It may be a converted model or the checkpoints of a run. Those of a run have
  # other steps, and an optimizer state.
  if names == {ASSETS, '0'}:
    with Store(path, read_only=True) as store:
      return store.trees(step=0) == ['params']
  return not names or huggingface.is_saved(path)


@contextlib.contextmanager
def new_directory(
  path: str | pathlib.Path, *, overwrite: bool = False
) -> Iterator:
  """Yields an empty directory that becomes `path` if nothing raises.

  If `path` is a link, the directory replaces the target of the link.

  overwrite: `path` may exist, if it is empty or a model that rlpt wrote.
  """
  path = pathlib.Path(os.path.realpath(path))
  if path.exists() and not overwrite:
    raise ValueError(f'{path}: already exists; pass --overwrite to replace it.')
  if path.exists() and not is_written(path):
    raise ValueError(
      f'{path}: is not a model that rlpt wrote, or contains other files, so '
      'it is not replaced. Choose another directory, or remove that one.'
    )
  if jax.process_count() > 1:
    raise ValueError(
      f'{path}: {jax.process_count()} processes: expected one to write the '
      'directory of a model. Run this on a single host.'
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  # In the same folder, so that the renames stay on one file system.
  parent = pathlib.Path(
    tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent)
  )
  try:
    fresh = parent / 'new'
    fresh.mkdir()
    yield fresh
    if path.exists():
      path.rename(parent / 'old')
    fresh.rename(path)
  finally:
    if (parent / 'old').exists() and not path.exists():
      (parent / 'old').rename(path)  # Stopped between the renames.
    shutil.rmtree(parent, ignore_errors=True)
