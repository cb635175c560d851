"""Reads and writes Hugging Face model directories, by one table of names.

A row of the table gives the Hugging Face name of a tensor and its dimensions in
our logical axes; both directions follow from it. Tensors are streamed: only one
of our stacked arrays is in memory at a time.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from rlpt_jax.core import tokenizer, weights
from rlpt_jax.core.layout import Layout
from rlpt_jax.core.weights import LazyArray, ParamSpec
from rlpt_jax.models.config import DecoderConfig
from rlpt_jax.models.huggingface_config import read_config, write_config

# Our name -> (Hugging Face's name, the dimensions of its tensor). Dimensions in
# parentheses are merged into one.
_ATTENTION = 'model.layers.{layers}.self_attn.'
_MLP = 'model.layers.{layers}.mlp.'
NAMES = {
  'embed': ('model.embed_tokens.weight', 'vocab embed'),
  'head': ('lm_head.weight', 'vocab embed'),
  'norm': ('model.norm.weight', 'norm'),
  'layers/attention_norm': (
    'model.layers.{layers}.input_layernorm.weight', 'norm'),
  'layers/mlp_norm': (
    'model.layers.{layers}.post_attention_layernorm.weight', 'norm'),
  'layers/w_q': (_ATTENTION + 'q_proj.weight', '(heads head_dim) embed'),
  'layers/w_k': (_ATTENTION + 'k_proj.weight', '(kv_heads head_dim) embed'),
  'layers/w_v': (_ATTENTION + 'v_proj.weight', '(kv_heads head_dim) embed'),
  'layers/w_o': (_ATTENTION + 'o_proj.weight', 'embed (heads head_dim)'),
  'layers/b_q': (_ATTENTION + 'q_proj.bias', '(heads head_dim)'),
  'layers/b_k': (_ATTENTION + 'k_proj.bias', '(kv_heads head_dim)'),
  'layers/b_v': (_ATTENTION + 'v_proj.bias', '(kv_heads head_dim)'),
  'layers/q_norm': (_ATTENTION + 'q_norm.weight', 'norm'),
  'layers/k_norm': (_ATTENTION + 'k_norm.weight', 'norm'),
  'layers/w_gate': (_MLP + 'gate_proj.weight', 'mlp embed'),
  'layers/w_up': (_MLP + 'up_proj.weight', 'mlp embed'),
  'layers/w_down': (_MLP + 'down_proj.weight', 'embed mlp'),
  'layers/w_router': (_MLP + 'gate.weight', 'router embed'),
  'layers/w_expert_gate': (
    _MLP + 'experts.{experts}.gate_proj.weight', 'mlp embed'),
  'layers/w_expert_up': (
    _MLP + 'experts.{experts}.up_proj.weight', 'mlp embed'),
  'layers/w_expert_down': (
    _MLP + 'experts.{experts}.down_proj.weight', 'embed mlp'),
}  # fmt: skip
# Files beside the weights that are copied unchanged.
COMPANIONS = (
  'generation_config.json', 'tokenizer.json', 'tokenizer_config.json',
  'tokenizer.model', 'special_tokens_map.json', 'added_tokens.json',
  'vocab.json', 'merges.txt', 'chat_template.jinja', 'chat_template.json',
  tokenizer.BYTES_FILE,
)  # fmt: skip
# `save` writes this mark into config.json and every file of weights; it shows
# which directories may be replaced. When transformers saves such a model, the
# mark stays in config.json but not in the weights.
WRITTEN_BY = {'written_by': 'rlpt'}
TOKEN_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')
SAFETENSORS_DTYPES = {'bfloat16': 'BF16', 'float16': 'F16', 'float32': 'F32'}
MAX_SHARD_BYTES = 5 * 10**9
WEIGHTS = r'model(-\d{5}-of-\d{5})?\.safetensors'


@dataclasses.dataclass(frozen=True)
class _Row:
  """Maps one of our stacked arrays to Hugging Face's tensors ('theirs')."""

  template: str
  stacked: tuple[int, ...]  # Sizes of our axes that are indices in their names.
  split: tuple[int, ...]  # Shape of their tensor with merged dimensions split.
  order: tuple[int, ...]  # The index in `split` of each of our dimensions.
  merged: tuple[int, ...]  # Shape of their tensor as stored.

  def names(self) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yields (index into the stacked axes, their name) for every tensor."""
    fields = re.findall(r'\{(\w+)\}', self.template)
    for index in np.ndindex(*self.stacked):
      counted = dict(zip(fields, index, strict=True))
      yield index, self.template.format(**counted)

  def to_ours(self, tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(self.split).transpose(self.order)

  def to_theirs(self, array: np.ndarray) -> np.ndarray:
    back = np.argsort(self.order)
    return np.ascontiguousarray(array.transpose(back)).reshape(self.merged)


def _row(path: str, spec: ParamSpec) -> _Row:
  template, dims = NAMES[path]
  depth = len(re.findall(r'\{(\w+)\}', template))
  axes = spec.axes[depth:]
  sizes = dict(zip(axes, spec.shape[depth:], strict=True))
  groups = [
    group.strip('()').split() for group in re.findall(r'\(.+?\)|\w+', dims)
  ]
  flat = [axis for group in groups for axis in group]
  return _Row(
    template=template,
    stacked=spec.shape[:depth],
    split=tuple(sizes[axis] for axis in flat),
    order=tuple(flat.index(axis) for axis in axes),
    merged=tuple(math.prod(sizes[a] for a in group) for group in groups),
  )


# Reading.


class Tensors:
  """The tensors of a directory's safetensors files, sharded or not, by name."""

  def __init__(self, directory: str | pathlib.Path):
    directory = pathlib.Path(directory)
    index = directory / 'model.safetensors.index.json'
    if index.exists():
      try:
        files = set(json.loads(index.read_text())['weight_map'].values())
      except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
          f'{index}: expected JSON with a "weight_map" of files: {error!r}.'
        ) from error
    else:
      files = {'model.safetensors'}
    # name -> (file, dtype, shape)
    self.directory, self._entries = directory, {}
    for path in sorted(directory / name for name in files):
      with _open_safetensors(path) as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
          entry = file.get_slice(name)
          shape = tuple(entry.get_shape())
          self._entries[name] = (path, entry.get_dtype(), shape)

  def __iter__(self) -> Iterator[str]:
    return iter(self._entries)

  def read(self, *names: str) -> Iterator[np.ndarray]:
    """Yields the named tensors, and closes their files at the end.

    Files are memory-mapped: while one is open, everything that was read from it
    stays in memory.
    """
    with contextlib.ExitStack() as stack:
      opened = {}
      for name in names:
        path = self._entries[name][0]
        if path not in opened:
          opened[path] = stack.enter_context(_open_safetensors(path))
        yield opened[path].get_tensor(name)

  def dtype(self, name: str) -> str:
    """The dtype of a tensor: 'bfloat16', 'float16' or 'float32'."""
    code = self._entries[name][1]
    for dtype, known in SAFETENSORS_DTYPES.items():
      if code == known:
        return dtype
    raise ValueError(
      f'{self.directory}: {name} has dtype {code}, expected one of '
      f'{", ".join(SAFETENSORS_DTYPES.values())}.'
    )

  def shape(self, name: str) -> tuple[int, ...]:
    return self._entries[name][2]


def _open_safetensors(path: pathlib.Path):
  import safetensors

  if not path.exists():
    raise ValueError(
      f'{path}: not found. Expected model.safetensors, or shards and '
      'model.safetensors.index.json; pickled weights (.bin) are not read.'
    )
  try:
    return safetensors.safe_open(path, framework='numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path}: incomplete or damaged safetensors file: {error}.'
    ) from error


def is_directory(path: str | pathlib.Path) -> bool:
  """Returns True if the path is a directory with a config.json."""
  return (pathlib.Path(path) / 'config.json').exists()


def is_saved(directory: pathlib.Path) -> bool:
  """Returns True if a directory holds nothing but what `save` writes.

  config.json and all weights must have its mark; COMPANIONS may have any
  origin. Weights may be missing.
  """
  names = {path.name for path in directory.iterdir()}
  if 'config.json' not in names:
    return False
  names -= {'config.json', 'model.safetensors.index.json', *COMPANIONS}
  try:
    config = json.loads((directory / 'config.json').read_text())
  except ValueError:
    return False
  return (
    isinstance(config, dict)
    and config.items() >= WRITTEN_BY.items()
    and all(re.fullmatch(WEIGHTS, name) for name in names)
    and all(_has_mark(directory / name) for name in names)
  )


def _has_mark(path: pathlib.Path) -> bool:
  try:
    with _open_safetensors(path) as file:
      return (file.metadata() or {}).items() >= WRITTEN_BY.items()
  except (ValueError, OSError):
    return False  # Incomplete, so not as `save` left it.


def load_config(directory: str | pathlib.Path) -> DecoderConfig:
  """The DecoderConfig that a directory's config.json describes."""
  path = pathlib.Path(directory) / 'config.json'
  try:
    fields = json.loads(path.read_text())
  except FileNotFoundError:
    raise ValueError(
      f'{directory}: no config.json. Expected a Hugging Face directory.'
    ) from None
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}: not JSON: {error}.') from error
  return read_config(fields, where=str(path))


def open_params(directory: str | pathlib.Path, specs) -> dict[str, Any]:
  """The parameters as LazyArrays; checks names and shapes against the specs."""
  tensors = Tensors(directory)
  rows = {path: _row(path, spec) for path, spec in weights.named(specs)}
  _check_names(tensors, rows, tied='head' not in rows)
  return weights.map_named(
    lambda path, spec: _lazy_array(tensors, path, spec, rows[path]), specs
  )


def load(directory, specs, *, layout: Layout, dtype='float32'):
  """The parameters on their devices; each process reads every file once."""

  def put(path, lazy: LazyArray):
    array = lazy.load()
    return jax.make_array_from_callback(
      lazy.shape,
      layout.weight_sharding(lazy.shape, specs_by_path[path].axes),
      lambda index: array[index].astype(dtype),
    )

  specs_by_path = dict(weights.named(specs))
  return weights.map_named(put, open_params(directory, specs))


def _check_names(tensors: Tensors, rows: dict[str, _Row], *, tied: bool):
  expected = {name: row for row in rows.values() for _, name in row.names()}
  extra = sorted(set(tensors) - set(expected))
  if tied and 'lm_head.weight' in extra:
    # Some published files store a tied head as well as the embedding.
    extra.remove('lm_head.weight')
    head, embed = tensors.read('lm_head.weight', 'model.embed_tokens.weight')
    if not np.array_equal(head, embed):
      raise ValueError(
        f'{tensors.directory}: lm_head.weight differs from the embedding, but '
        'config.json says tie_word_embeddings=true.'
      )
  missing = sorted(set(expected) - set(tensors))
  if missing or extra:
    raise ValueError(
      f'{tensors.directory}: its weights do not match its config.json: '
      f'{len(missing)} missing {missing[:3]}, {len(extra)} unexpected '
      f'{extra[:3]}.'
    )
  for name, row in expected.items():
    if tensors.shape(name) != row.merged:
      raise ValueError(
        f'{tensors.directory}: {name} has shape {tensors.shape(name)}, but '
        f'config.json implies {row.merged}.'
      )


def _lazy_array(
  tensors: Tensors, path, spec: ParamSpec, row: _Row
) -> LazyArray:
  dtypes = {tensors.dtype(name) for _, name in row.names()}
  if len(dtypes) > 1:
    raise ValueError(
      f'{tensors.directory}: the tensors of {path} have dtypes '
      f'{sorted(dtypes)}, expected one.'
    )
  (dtype,) = map(np.dtype, dtypes)
  depth = len(row.stacked)

  def read(index: tuple[slice, ...]) -> np.ndarray:
    chosen = [range(n)[i] for n, i in zip(row.stacked, index, strict=False)]
    rest = tuple(
      range(n)[i]
      for n, i in zip(spec.shape[depth:], index[depth:], strict=True)
    )
    places, names = [], []
    for at, name in row.names():
      if all(i in part for i, part in zip(at, chosen, strict=True)):
        place = (part.index(i) for i, part in zip(at, chosen, strict=True))
        places.append(tuple(place))
        names.append(name)
    out = np.empty([len(part) for part in (*chosen, *rest)], dtype)
    for place, tensor in zip(places, tensors.read(*names), strict=True):
      out[place] = row.to_ours(tensor)[index[depth:]]
    return out

  return LazyArray(spec.shape, dtype, read)


# Writing.


def save(
  directory: str | pathlib.Path,
  config: DecoderConfig,
  specs,
  arrays: Iterable[tuple[str, np.dtype, Callable[[], np.ndarray]]],
  *,
  companions: str | pathlib.Path | None = None,
  max_shard_bytes: int = MAX_SHARD_BYTES,
):
  """Writes a directory that transformers can load.

  arrays: (name, dtype, function that returns the array) of each parameter; only
    one array is in memory at a time.
  companions: a directory to copy tokenizer and generation files from.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  arrays = list(arrays)
  rows = {path: _row(path, spec) for path, spec in weights.named(specs)}
  shards = _plan_shards(arrays, rows, max_shard_bytes)
  files = ['model.safetensors']
  if len(shards) > 1:
    files = [
      f'model-{i + 1:05}-of-{len(shards):05}.safetensors'
      for i in range(len(shards))
    ]
    weight_map = {
      name: file
      for file, shard in zip(files, shards, strict=True)
      for name in shard
    }
    total = sum(tensor[2] for shard in shards for tensor in shard.values())
    _write_json(
      directory / 'model.safetensors.index.json',
      {'metadata': {'total_size': total}, 'weight_map': weight_map},
    )
  tensors = itertools.chain.from_iterable(
    _tensors(rows[path], read) for path, _, read in arrays
  )
  for file, shard in zip(files, shards, strict=True):
    _write_safetensors(directory / file, shard, tensors)
  dtypes = {dtype.name for _, dtype, _ in arrays}
  dtype = dtypes.pop() if len(dtypes) == 1 else 'float32'
  written = _config_json(config, dtype, companions) | WRITTEN_BY
  _write_json(directory / 'config.json', written)
  ids = {name: written[name] for name in TOKEN_IDS if written[name] is not None}
  _write_json(
    directory / 'generation_config.json', {'_from_model_config': True, **ids}
  )
  # Last: if the companions have a generation_config.json, it replaces ours.
  copy_companions(companions, directory)


def _tensors(row: _Row, read) -> Iterator[np.ndarray]:
  array = read()
  for index, _ in row.names():
    yield row.to_theirs(array[index])


def _plan_shards(arrays, rows, max_bytes):
  """[{name: (dtype, shape, bytes)}, ...]: a dict per file, in writing order."""
  shards, size = [{}], 0
  for path, dtype, _ in arrays:
    for _, name in rows[path].names():
      num_bytes = math.prod(rows[path].merged) * dtype.itemsize
      if shards[-1] and size + num_bytes > max_bytes:
        shards.append({})
        size = 0
      shards[-1][name] = (dtype, rows[path].merged, num_bytes)
      size += num_bytes
  return shards


def _write_safetensors(
  path: pathlib.Path, shard, tensors: Iterator[np.ndarray]
):
  """Streams a file; safetensors' own writer needs all its tensors in memory.

  The format is 8 bytes with the length of the JSON header, the header (name ->
  dtype, shape, offsets), then the bytes of every tensor.
  """
  header, end = {'__metadata__': {'format': 'pt'} | WRITTEN_BY}, 0
  for name, (dtype, shape, num_bytes) in shard.items():
    header[name] = {
      'dtype': SAFETENSORS_DTYPES[dtype.name],
      'shape': shape,
      'data_offsets': [end, end + num_bytes],
    }
    end += num_bytes
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # Align the tensors for memory maps.
  with path.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for _ in shard:
      file.write(next(tensors).reshape(-1).view(np.uint8).data)


def _config_json(
  config: DecoderConfig, dtype: str, companions
) -> dict[str, Any]:
  """Returns the fields of config.json.

  companions: a directory; its config.json, if any, has the ids of BOS, EOS and
    padding.
  """
  written = write_config(config, dtype=dtype)
  original = companions and pathlib.Path(companions) / 'config.json'
  if original and original.exists():
    before = json.loads(original.read_text())
    for name in TOKEN_IDS:
      if name in before:
        written[name] = before[name]
  return written


def copy_companions(source, target: pathlib.Path, *, config: bool = False):
  """Copies tokenizer and generation files, and config.json if asked to."""
  if source is None:
    return
  for name in COMPANIONS + (('config.json',) if config else ()):
    path = pathlib.Path(source) / name
    if path.exists():
      (target / name).write_bytes(path.read_bytes())


def _write_json(path: pathlib.Path, fields: dict[str, Any]):
  path.write_text(json.dumps(fields, indent=2) + '\n')
