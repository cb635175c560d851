"""Encodes scalars as bytes of a TensorBoard events file.

We do not use tensorboardX: it imports torch if installed, its daemon thread and
queue lose data when the run is killed, and it hangs once the disk is full.
"""

import struct
import time
from collections.abc import Mapping

import numpy as np

# Field numbers and wire types of event.proto and summary.proto.
_WALL_TIME, _STEP, _VERSION, _SUMMARY, _SESSION = 0x09, 0x10, 0x1A, 0x2A, 0x3A
_VALUE, _TAG, _SIMPLE_VALUE = 0x0A, 0x0A, 0x15
_STATUS_START = b'\x08\x01'


def opening(first_step: int) -> bytes:
  """Returns the first records of a file.

  They make TensorBoard drop the values that earlier files have for first_step
  and all later steps.
  """
  version = _record(_event(0, _VERSION, b'brain.Event:2'))
  return version + _record(_event(first_step, _SESSION, _STATUS_START))


def scalars(step: int, values: Mapping[str, float]) -> bytes:
  """Returns the record with the values of one step, as float32."""
  summary = b''
  for tag, value in values.items():
    with np.errstate(over='ignore'):  # Values beyond float32 become infinite.
      number = np.array(value, '<f4').tobytes()
    encoded = _bytes(_TAG, tag.encode()) + bytes([_SIMPLE_VALUE]) + number
    summary += _bytes(_VALUE, encoded)
  return _record(_event(step, _SUMMARY, summary))


def _event(step: int, field: int, content: bytes) -> bytes:
  wall_time = struct.pack('<Bd', _WALL_TIME, time.time())
  return wall_time + bytes([_STEP]) + _varint(step) + _bytes(field, content)


def _bytes(field: int, content: bytes) -> bytes:
  return bytes([field]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
  encoded = b''
  while number > 0x7F:
    encoded += bytes([number & 0x7F | 0x80])
    number >>= 7
  return encoded + bytes([number])


def _record(content: bytes) -> bytes:
  """Wraps content as one record of a TFRecord file."""
  length = struct.pack('<Q', len(content))
  return length + _masked_crc(length) + content + _masked_crc(content)


def _masked_crc(content: bytes) -> bytes:
  crc = crc32c(content)
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return struct.pack('<I', (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
  """The CRC-32C (Castagnoli) checksum; zlib's uses another polynomial."""
  crc = 0xFFFFFFFF
  for byte in content:
    crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
  return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
  table = []
  for byte in range(256):
    for _ in range(8):
      byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    table.append(byte)
  return table


_TABLE = _table()
