"""Events as others read them: protobuf's parser and TensorFlow's reader."""

import math
import struct

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from rlpt_jax.core import events

# Of tensorflow/core/util/event.proto, what is written: name, number, type.
MESSAGES = {
  'Event': [
    ('wall_time', 1, 'double'),
    ('step', 2, 'int64'),
    ('file_version', 3, 'string'),
    ('summary', 5, 'Summary'),
    ('session_log', 7, 'SessionLog'),
  ],
  'Summary': [('value', 1, 'Value')],
  'Value': [('tag', 1, 'string'), ('simple_value', 2, 'float')],
  'SessionLog': [('status', 1, 'int32')],
}


def event_class():
  file = descriptor_pb2.FileDescriptorProto(name='e.proto', package='e')
  for name, fields in MESSAGES.items():
    message = file.message_type.add(name=name)
    for field_name, number, kind in fields:
      field = message.field.add(name=field_name, number=number)
      field.label = 3 if field_name == 'value' else 1  # Repeated, optional.
      if kind in MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f'.e.{kind}'
      else:
        field.type = getattr(field, f'TYPE_{kind.upper()}')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('e.Event'))


def parsed(content: bytes) -> list:
  """The events of a file, whose checksums are another test's."""
  found, event = [], event_class()
  while len(content) > 8:
    (length,) = struct.unpack('<Q', content[:8])
    if len(content) < 16 + length:
      break  # Half a record, of a run that was killed.
    found.append(event.FromString(content[12 : 12 + length]))
    content = content[16 + length :]
  return found


def test_a_file_opens_with_its_version_and_what_it_supersedes():
  version, start = parsed(events.opening(70_000))
  assert version.file_version == 'brain.Event:2'
  assert version.step == 0
  assert start.step == 70_000
  assert start.session_log.status == 1  # START
  assert start.wall_time > 1.7e9


@pytest.mark.parametrize('step', [0, 127, 128, 2**40])
def test_values_of_a_step(step):
  values = {
    'loss': 0.1,
    'gap/größe': -2,
    'right': True,
    'nan': math.nan,
    'flops': 10**21,
    'large': 1e39,  # Beyond float32.
  }
  (event,) = parsed(events.scalars(step, values))
  assert event.step == step
  found = {value.tag: value.simple_value for value in event.summary.value}
  assert list(found) == list(values)
  assert found['loss'] == struct.unpack('<f', struct.pack('<f', 0.1))[0]
  assert (found['gap/größe'], found['right']) == (-2, 1)
  assert math.isnan(found['nan'])
  assert found['flops'] == pytest.approx(1e21)
  assert found['large'] == math.inf


def test_a_record_longer_than_a_byte_can_say():
  values = {f'metric/{i}': i for i in range(100)}
  (event,) = parsed(events.scalars(3, values))
  assert {v.tag: v.simple_value for v in event.summary.value} == values


def test_checksum():
  assert events.crc32c(b'123456789') == 0xE3069283  # RFC 3720's, by convention.
  assert events.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4.


@pytest.mark.slow
def test_tensorflow_reads_it(tmp_path):
  import tensorflow as tf
  from tensorflow.core.util import event_pb2

  path = tmp_path / 'events.out.tfevents.1.host'
  path.write_bytes(events.opening(2) + events.scalars(2, {'loss': 0.5}))
  # Its reader compares the checksums.
  records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
  version, start, event = map(event_pb2.Event.FromString, records)
  assert version.file_version == 'brain.Event:2'
  assert start.session_log.status == event_pb2.SessionLog.START
  (value,) = event.summary.value
  assert (event.step, value.tag, value.simple_value) == (2, 'loss', 0.5)
