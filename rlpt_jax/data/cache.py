"""Records on disk: a SeqIO cache with an index for random access.

  FOLDER/                            one stage of one corpus
    plan.json                        the input: source, settings, parts
    train.tfrecord-00003-of-00012    the records of part 3, as SeqIO reads them
    index-00003.npz                  each record's offset, checksum and sizes
    part-00003.json                  counts of the part's documents
    manifest.json                    the totals of all parts, with checksums
    info.train.json stats.train.json COMPLETED       the files SeqIO expects

Files are written under a temporary name and then renamed. The json of a part is
written last, so a part with a json is complete, and preparation can be killed
at any time.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from rlpt_jax.data import files
from rlpt_jax.data.records import Record, Stage

SPLIT = 'train'  # SeqIO needs one; a held-out set is a separate corpus.
OPEN_FILES = 64
# A TFRecord consists of the length (8 bytes), a checksum of the length (4), the
# data, and a checksum of the data (4).
_BEFORE, _AFTER = 12, 4


def shard_name(part: int, parts: int) -> str:
  return f'{SPLIT}.tfrecord-{part:05d}-of-{parts:05d}'


def write_part(
  folder: str, part: int, parts: int, records: Iterable[Record], stage: Stage
) -> dict[str, Any]:
  """Writes a part's records and their index.

  Returns the shard's name, bytes, number of records and checksum.
  """
  import tensorflow as tf

  name = shard_name(part, parts)
  path = os.path.join(folder, name)
  checksum = hashlib.blake2b(digest_size=16)
  offsets, lengths, checks, sizes, offset = [], [], [], [], 0
  with tf.io.TFRecordWriter(f'{path}.tmp') as writer:
    for record in records:
      data = encode(record)
      writer.write(data)
      checksum.update(data)
      offsets.append(offset + _BEFORE)
      lengths.append(len(data))
      checks.append(zlib.crc32(data))
      sizes.append(stage.sizes(record))
      offset += _BEFORE + len(data) + _AFTER
  tf.io.gfile.rename(f'{path}.tmp', path, overwrite=True)
  index = os.path.join(folder, f'index-{part:05d}.npz')
  arrays = io.BytesIO()  # Writing a zip seeks, which not every store supports.
  np.savez(
    arrays,
    offsets=np.array(offsets, np.int64),
    lengths=np.array(lengths, np.int64),
    checks=np.array(checks, np.uint32),
    sizes=np.array(sizes, np.int64).reshape(-1, len(stage.columns)),
  )
  with tf.io.gfile.GFile(f'{index}.tmp', 'wb') as file:
    file.write(arrays.getvalue())
  tf.io.gfile.rename(f'{index}.tmp', index, overwrite=True)
  return {
    'name': name,
    'bytes': offset,
    'records': len(offsets),
    'checksum': checksum.hexdigest(),
  }


def encode(record: Record) -> bytes:
  """Serializes a record as a tf.train.Example."""
  import tensorflow as tf

  features = {}
  for name, value in record.items():
    if isinstance(value, str):
      data = tf.train.BytesList(value=[value.encode()])
      features[name] = tf.train.Feature(bytes_list=data)
    else:
      data = tf.train.Int64List(value=value.tolist())
      features[name] = tf.train.Feature(int64_list=data)
  features = tf.train.Features(feature=features)
  return tf.train.Example(features=features).SerializeToString()


def decode(data: bytes) -> Record:
  """Parses a record that `encode` serialized."""
  record = {}
  features = _example().FromString(data).features.feature
  for name, feature in features.items():
    if feature.HasField('bytes_list'):
      record[name] = feature.bytes_list.value[0].decode()
    else:
      values = feature.int64_list.value
      record[name] = np.fromiter(values, np.int32, len(values))
  return record


# The fields of tf.train.Example that records use. With these we can parse
# records without TensorFlow, which takes seconds to import.
_EXAMPLE = """
  name: "rlpt_jax/example.proto"
  package: "rlpt_jax"
  message_type {
    name: "BytesList"
    field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
  }
  message_type {
    name: "Int64List"
    field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
  }
  message_type {
    name: "Feature"
    field { name: "bytes_list" number: 1 type_name: ".rlpt_jax.BytesList" }
    field { name: "int64_list" number: 3 type_name: ".rlpt_jax.Int64List" }
  }
  message_type {
    name: "Features"
    field {
      name: "feature" number: 1 label: LABEL_REPEATED
      type_name: ".rlpt_jax.Features.FeatureEntry"
    }
    nested_type {
      name: "FeatureEntry"
      field { name: "key" number: 1 type: TYPE_STRING }
      field { name: "value" number: 2 type_name: ".rlpt_jax.Feature" }
      options { map_entry: true }
    }
  }
  message_type {
    name: "Example"
    field { name: "features" number: 1 type_name: ".rlpt_jax.Features" }
  }
"""


@functools.cache
def _example() -> type:
  """Returns a protobuf class that parses tf.train.Example."""
  from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
  )

  pool = descriptor_pool.DescriptorPool()
  pool.Add(text_format.Parse(_EXAMPLE, descriptor_pb2.FileDescriptorProto()))
  return message_factory.GetMessageClass(
    pool.FindMessageTypeByName('rlpt_jax.Example')
  )


@dataclasses.dataclass
class Cache:
  """Random access to the records of a prepared folder."""

  folder: str

  def __post_init__(self):
    if files.size(os.path.join(self.folder, 'COMPLETED')) is None:
      raise ValueError(
        f'{self.folder}: is not fully prepared. Run `rlpt prepare` with this '
        "gin file, or set cache_dir='' to read the corpus directly."
      )
    self.manifest = read_json(self.folder, 'manifest.json')
    shards = self.manifest['shards']
    columns = []
    for i, shard in enumerate(shards):
      columns.append(check_shard(self.folder, i, shard))
    self._shard = np.repeat(
      np.arange(len(shards)), [shard['records'] for shard in shards]
    )
    self._offsets, self._lengths, self._checks, self.sizes = (
      np.concatenate([c[name] for c in columns])
      for name in ('offsets', 'lengths', 'checks', 'sizes')
    )
    # Least recently used first, to close files beyond OPEN_FILES.
    self._files: collections.OrderedDict[int, Any] = collections.OrderedDict()

  def __len__(self) -> int:
    return len(self._offsets)

  def read(self, number: int) -> Record:
    """Returns record `number`; raises a ValueError if it is damaged."""
    shard, length = int(self._shard[number]), int(self._lengths[number])
    file = self._open(shard)
    file.seek(int(self._offsets[number]))
    data = file.read(length)
    if len(data) != length or zlib.crc32(data) != self._checks[number]:
      raise ValueError(
        f'{self.manifest["shards"][shard]["name"]} in {self.folder}: record '
        f'{number} is damaged. Remove the folder and prepare it again.'
      )
    return decode(data)

  def _open(self, shard: int):
    if shard not in self._files:
      path = os.path.join(self.folder, self.manifest['shards'][shard]['name'])
      self._files[shard] = files.open_file(path)
      if len(self._files) > OPEN_FILES:
        self._files.popitem(last=False)[1].close()
    self._files.move_to_end(shard)
    return self._files[shard]

  def close(self):
    for file in self._files.values():
      file.close()
    self._files.clear()


def check_shard(
  folder: str, part: int, shard: dict[str, Any]
) -> dict[str, np.ndarray]:
  """Returns the index of a shard.

  Raises a ValueError if the index is damaged, or the shard has the wrong size.
  `Cache.read` checks the records themselves.
  """
  path = os.path.join(folder, shard['name'])
  size = files.size(path)
  if size != shard['bytes']:
    size = 'no' if size is None else size
    raise ValueError(
      f'{path}: has {size} bytes, but the manifest says {shard["bytes"]}. '
      'Run `rlpt prepare` again to rewrite this part.'
    )
  index = os.path.join(folder, f'index-{part:05d}.npz')
  try:
    with files.open_file(index) as file:
      arrays = dict(np.load(io.BytesIO(file.read())))
  except (zipfile.BadZipFile, ValueError, OSError) as error:
    raise _damaged(index, error) from error
  if len(arrays['offsets']) != shard['records']:
    raise _damaged(index, f'{len(arrays["offsets"])} records')
  return arrays


def read_json(folder: str, name: str) -> Any:
  path = os.path.join(folder, name)
  try:
    with files.open_file(path) as file:
      return json.loads(file.read())
  except (OSError, ValueError) as error:
    raise _damaged(path, error) from error


def _damaged(path: str, error: Any) -> ValueError:
  return ValueError(
    f'{path}: missing or damaged ({str(error).splitlines()[0][:80]}). Run '
    '`rlpt prepare` again; if that does not help, remove its folder first.'
  )


def write_json(folder: str, name: str, value: Any):
  """Writes a JSON file atomically."""
  import tensorflow as tf

  path = os.path.join(folder, name)
  with tf.io.gfile.GFile(f'{path}.tmp', 'w') as file:
    file.write(json.dumps(value, indent=1, sort_keys=True) + '\n')
  tf.io.gfile.rename(f'{path}.tmp', path, overwrite=True)


def digest(value: Any) -> str:
  """Returns a short checksum of any JSON value."""
  data = json.dumps(value, sort_keys=True).encode()
  return hashlib.blake2b(data, digest_size=8).hexdigest()
