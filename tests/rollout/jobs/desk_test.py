"""A desk over real connections: groups out, results in, and nothing hangs."""

import concurrent.futures
import http.client
import json
import socket
import threading
import time

import numpy as np
import pytest

from rlpt_jax.llm.remote import Unavailable
from rlpt_jax.rollout import group_state
from rlpt_jax.rollout.jobs import desk as desk_lib
from rlpt_jax.rollout.jobs.desk import Desk
from rlpt_jax.rollout.jobs.starts import Contact
from tests.rollout.group_state_test import completion, group

SECRET = 'ab' * 16


@pytest.fixture
def desk():
  contact = Contact(host='localhost', lease_s=60.0)
  made = Desk(contact, SECRET, samples=2, version=7)
  yield made
  made.close()


@pytest.fixture
def client(desk):
  """Returns (open(), post(connection, route, content))."""
  opened = []

  def open_():
    opened.append(http.client.HTTPConnection('localhost', desk.port, timeout=9))
    return opened[-1]

  def post(connection, route, content, secret=SECRET):
    body = content if isinstance(content, bytes) else json.dumps(content)
    connection.request('POST', route, body, {'Authorization': secret})
    response = connection.getresponse()
    return response.status, json.loads(response.read())

  yield open_, post
  for connection in opened:
    connection.close()


def asked(sampler='a', names=(), version=7, wanted=1, slots_in_use=None):
  return {
    'sampler': sampler, 'names': [*names], 'version': version,
    'wanted': wanted, 'slots_in_use': slots_in_use,
  }  # fmt: skip


def result(number, *samples):
  return group_state.to_bytes([group(number, *samples)])


EXAMPLE = group(3, None)[0]
DONE = completion('done', 'stop'), completion('x', 'length')


def test_a_group_goes_out_and_comes_back_once(desk, client):
  open_, post = client
  desk.offer('name 3', EXAMPLE, oldest=7)
  a, b = open_(), open_()
  status, told = post(a, '/sync', asked('a'))
  task = {'name': 'name 3', 'example': group_state.to_json(EXAMPLE)}
  assert (status, told) == (
    200, {'version': 7, 'lost': [], 'tasks': json.loads(json.dumps([task]))}
  )  # fmt: skip
  assert post(b, '/sync', asked('b', ['name 3']))[1]['lost'] == ['name 3']
  assert desk.collect([]) == {}
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    waiting = pool.submit(desk.collect, ['name 3'])
    assert post(a, '/result', result(3, *DONE)) == (200, {'is_accepted': True})
    found = waiting.result(timeout=9)
  samples = found['name 3']
  assert np.array_equal(samples[0].tokens, DONE[0].tokens)
  assert [sample.finish_reason for sample in samples] == ['stop', 'length']
  # Its acknowledgement may be lost: then it is brought again.
  assert post(b, '/result', result(3, *DONE)) == (200, {'is_accepted': False})
  assert desk.collect(['name 3']) == {}


@pytest.mark.parametrize(
  ('oldest', 'version', 'samples', 'message'),
  [
    (8, 9, DONE, 'sampled by weights of versions 7 to 7, expected 8 to 9'),
    (5, 6, DONE, 'sampled by weights of versions 7 to 7, expected 5 to 6'),
    (7, 7, DONE[:1], '1 samples, expected 2'),
    (7, 7, (DONE[0], None), 'a sample is not finished'),
    (7, 7, (DONE[0], completion('x', None)), 'a sample is not finished'),
  ],
)
def test_what_cannot_be_learned_from_is_refused(
  oldest, version, samples, message, desk, client
):
  open_, post = client
  desk.offer('name 0', group(0, None)[0], oldest)
  desk.version = version
  status, answer = post(open_(), '/result', result(0, *samples))
  assert status == 400 and message in answer['error']
  # It is still open.
  assert post(open_(), '/sync', asked(version=99))[1]['tasks']


def test_samples_of_another_prompt_are_refused(desk, client):
  """After a restart, a curriculum may give a name to another example."""
  open_, post = client
  desk.offer('name 0', EXAMPLE, oldest=7)
  status, answer = post(open_(), '/result', result(0, *DONE))
  assert status == 400 and 'name 0: samples of another prompt' in str(answer)
  assert post(open_(), '/sync', asked())[1]['tasks']


@pytest.mark.parametrize(
  ('route', 'body'),
  [
    ('/sync', b'{'), ('/sync', b'{}'), ('/sync', b'[]'), ('/result', b''),
    ('/result', b'PK\x03\x04'), ('/else', b''),
    ('/result', group_state.to_bytes([])),
  ],
)  # fmt: skip
def test_nonsense_is_one_line_and_no_more(route, body, desk, client):
  open_, post = client
  connection = open_()
  status, answer = post(connection, route, body)
  assert status == 400 and len(answer['error'].splitlines()) == 1
  assert post(connection, '/sync', asked())[0] == 200


def test_a_sampler_of_another_start_is_told(desk, client):
  open_, post = client
  desk.offer('name', EXAMPLE, 0)
  for route in ('/sync', '/result'):
    assert post(open_(), route, asked(), secret='other') == (409, {})
  assert post(open_(), '/sync', asked())[1]['tasks']


def test_the_groups_of_a_sampler_that_dies_are_free_at_once(desk, client):
  open_, post = client
  desk.offer('name', EXAMPLE, 0)
  first = open_()
  assert post(first, '/sync', asked('a'))[1]['tasks']
  # It connects again; the end of its old connection costs it nothing.
  second = open_()
  assert not post(second, '/sync', asked('a', ['name']))[1]['lost']
  first.close()
  time.sleep(0.1)
  other = open_()
  assert not post(other, '/sync', asked('b'))[1]['tasks']
  second.close()
  end = time.monotonic() + 9
  while not post(other, '/sync', asked('b'))[1]['tasks']:
    assert time.monotonic() < end
    time.sleep(0.01)


def test_a_run_that_is_preempted_waits_for_no_sampler(desk):
  desk.offer('name', EXAMPLE, 0)
  threading.Timer(0.1, desk.stop_waiting).start()
  with pytest.raises(Unavailable, match='preempted'):
    desk.collect(['name'])


def test_a_learner_without_samplers_says_so_once(desk, monkeypatch, caplog):
  monkeypatch.setattr(desk_lib, 'LONELY_S', 0.0)
  monkeypatch.setattr(desk_lib, 'LOOK_S', 0.02)
  desk.offer('name', EXAMPLE, 0)
  threading.Timer(0.3, desk.stop_waiting).start()
  with pytest.raises(Unavailable):
    desk.collect(['name'])
  (record,) = caplog.records
  assert 'start some with `rlpt sample`' in record.getMessage()


def test_it_closes_while_samplers_are_connected_or_half_way(client):
  contact = Contact(host='localhost')
  made = Desk(contact, SECRET, samples=2, version=0)
  idle = http.client.HTTPConnection('localhost', made.port, timeout=9)
  headers = {'Authorization': SECRET}
  idle.request('POST', '/sync', json.dumps(asked()), headers)
  idle.getresponse().read()
  hung = socket.create_connection(('localhost', made.port))
  hung.sendall(b'POST /result HTTP/1.1\r\nContent-Length: 99\r\n\r\nabc')
  time.sleep(0.1)
  since = time.monotonic()
  made.close()
  assert time.monotonic() < since + 5
  idle.close()
  hung.close()


def test_the_share_of_slots_in_use_is_the_mean(desk, client):
  open_, post = client
  assert desk.take_slots_in_use() == 0
  for share in (0.5, 1.0, None):
    post(open_(), '/sync', asked(slots_in_use=share))
  assert desk.take_slots_in_use() == 0.75 and desk.take_slots_in_use() == 0


def test_a_port_that_is_taken_is_one_line(desk):
  with pytest.raises(ValueError, match=f'port={desk.port}: Address already'):
    Desk(
      Contact(host='localhost', port=desk.port), SECRET, samples=1, version=0
    )
