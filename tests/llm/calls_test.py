"""Recorded calls against models that reply well, badly or not at all."""

import asyncio
import collections
import functools
import json
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlpt_jax.llm import call_records
from rlpt_jax.llm import calls as lib
from rlpt_jax.llm.answer_cache import content_key
from rlpt_jax.llm.budget import Budget, Price, Spent, Usage
from rlpt_jax.llm.chat_api import Fault, Tokens
from rlpt_jax.llm.remote import Endpoint, Patience, Unavailable
from tests.llm import scripted_models
from tests.llm.scripted_models import mixed, text_of
from tests.serving import toy

QUICK = {
  'timeout': 0.5, 'attempts': 3, 'first_delay': 0.002, 'longest_delay': 0.02,
  'open_after': 1000, 'wait': 20.0, 'concurrency': 8,
}  # fmt: skip
FIELDS = {'max_tokens': 100, 'temperature': 1, 'seed': 5}


def said(body) -> str:
  return said_of(text_of(body))


def said_of(text: str) -> str:
  return f'["{text[-20:]}"]'


def _calls(models, path, *, stages=('read',), budget=None, **patience):
  endpoints = {
    stage: Endpoint(url=models.url, model=f'org/{stage}', fields=FIELDS)
    for stage in stages
  }
  patience = Patience(**{**QUICK, **patience})
  return lib.Calls(path, endpoints, patience=patience, budget=budget)


def _asks_once(calls, **options):
  async def work(document):
    return await calls.ask(document, stage='read', id=document, **options)

  return work


def _lines(path):
  return [json.loads(line) for line in path.read_text().split('\n') if line]


DOCUMENTS = [f'document {i}' for i in range(30)]


# What is asked, answered and recorded.


def test_a_call_is_recorded_as_a_person_would_read_it(tmp_path):
  path = tmp_path / 'deep' / 'calls.jsonl'
  prices = {'org/read': Price(1.0, 1000.0)}
  messages = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': 'Sum up: 水 is wet. \ud800'},
  ]
  with scripted_models.running(lambda body: 'wet 水') as models:
    budget = Budget(prices=prices)
    with _calls(models, path, budget=budget) as calls:

      async def work(name):
        return await calls.ask(
          messages, stage='read', id=name, document='水 is wet. \ud800'
        )

      (reply,) = calls.run(work, ['d'])
  assert (reply.text, reply.finish_reason) == ('wet 水', 'stop')
  assert (reply.tokens, reply.is_kept) == (Tokens(8, 2), False)
  assert '水' in path.read_text()
  (line,) = _lines(path)
  assert 0 <= line.pop('seconds') < 10 and len(line.pop('key')) == 32
  assert line.pop('time').endswith('+00:00')
  note = {'role': 'user', 'content': 'Sum up: [document: 11 characters]'}
  assert line == {
    'stage': 'read', 'id': 'd', 'attempt': 0, 'model': 'org/read',
    'prompt': [messages[0], note], 'reply': 'wet 水', 'finish_reason': 'stop',
    'usage': {'prompt_tokens': 8, 'completion_tokens': 2}, 'money': 0.002008,
  }  # fmt: skip
  assert path.stat().st_mode & 0o077 == 0


def test_results_come_in_order_and_few_documents_are_read_ahead(tmp_path):
  read = []

  def documents():
    for document in DOCUMENTS:
      read.append(document)
      yield document

  def act(body, _):
    # The first is the slowest.
    return 'slow', 0.3 if text_of(body) == 'document 0' else 0

  with scripted_models.running(said, act) as models:
    with _calls(models, tmp_path / 'calls.jsonl') as calls:
      results = calls.run(_asks_once(calls), documents(), window=10)
      texts = []
      for result in results:
        texts.append(result.text)
        assert len(read) <= len(texts) + 9
    assert models.most_running <= 8
  assert texts == [f'["{document}"]' for document in DOCUMENTS]


def test_stages_that_share_a_model_share_its_limit(tmp_path):
  url_of = {}
  with scripted_models.running(said, lambda *_: ('slow', 0.03)) as models:
    for stage, model in (('a', 'm'), ('b', 'm'), ('c', 'n')):
      url_of[stage] = Endpoint(url=models.url, model=model, fields=FIELDS)
    patience = Patience(**{**QUICK, 'concurrency': 2})
    path = tmp_path / 'calls.jsonl'
    with lib.Calls(path, url_of, patience=patience) as calls:

      async def work(document):
        await asyncio.gather(
          *(calls.ask(document + x, stage=x, id=document) for x in 'abc')
        )

      list(calls.run(work, DOCUMENTS[:6]))
    assert models.most_running == 4  # Two of each model.


def test_another_attempt_is_another_call_with_another_seed(tmp_path):
  seeds = []

  def say(body):
    seeds.append(body['seed'])
    return '[]'

  async def work(document):
    for attempt in range(3):
      await calls.ask('same', stage='read', id='d', attempt=attempt)

  path = tmp_path / 'calls.jsonl'
  with scripted_models.running(say) as models:
    for _ in range(2):
      with _calls(models, path) as calls:
        list(calls.run(work, ['d']))
  assert seeds == [5, 6, 7]
  assert [line['attempt'] for line in _lines(path)] == [0, 1, 2]
  # Without a seed the body is the same, and yet another call is made.
  with scripted_models.running(said) as models:
    endpoint = Endpoint(url=models.url, model='m', fields={'max_tokens': 9})
    with lib.Calls(tmp_path / 'other.jsonl', {'read': endpoint}) as calls:
      list(calls.run(work, ['d']))
    assert list(models.paid.values()) == [3]


def test_equal_documents_are_paid_for_once(tmp_path):
  with scripted_models.running(said, lambda *_: ('slow', 0.05)) as models:
    with _calls(models, tmp_path / 'calls.jsonl') as calls:
      replies = list(calls.run(_asks_once(calls), ['same'] * 5))
    assert list(models.paid.values()) == [1]
  assert sorted(reply.is_kept for reply in replies) == [False] + 4 * [True]
  assert calls.counts == {'asked': 5, 'kept': 4}


def test_the_size_is_estimated_if_the_server_does_not_say(tmp_path):
  path = tmp_path / 'calls.jsonl'
  with scripted_models.running(said, lambda *_: 'without_usage') as models:
    for _ in range(2):
      with _calls(models, path) as calls:
        (reply,) = calls.run(_asks_once(calls), ['x' * 41])
        # ceil(41 / 4), ceil(24 / 4): '["xxx..."]' of 20 times x.
        assert reply.tokens == Tokens(11, 6, is_estimated=True)
        assert calls.account.total == Usage(1, 11, 6, 0.0, estimated=1)
  assert _lines(path)[0]['usage']['estimated'] is True


# A restart.

BAD = ('fenced', 'wrong_json', 'cut', 'prose', 'empty', 'good')


@pytest.mark.parametrize('act', BAD)
def test_a_reply_is_paid_for_once_whatever_it_says(act, tmp_path):
  path, found = tmp_path / 'calls.jsonl', []
  with scripted_models.running(said, lambda *_: act) as models:
    for _ in range(2):
      with _calls(models, path) as calls:
        (reply,) = calls.run(_asks_once(calls), ['d'])
        found.append(reply._replace(is_kept=False, seconds=0.0))
        assert calls.account.total.calls == 1
    assert list(models.paid.values()) == [1]
  assert found[0] == found[1]
  assert found[0].finish_reason == (
    'length' if act in ('cut', 'empty') else 'stop'
  )


def test_an_unfinished_line_is_skipped_and_counted(tmp_path):
  path = tmp_path / 'calls.jsonl'
  with scripted_models.running(said) as models:
    with _calls(models, path) as calls:
      list(calls.run(_asks_once(calls), DOCUMENTS[:3]))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 9])
    with _calls(models, path) as calls:
      assert calls.records.skipped == 1
      assert calls.account.total.calls == 2
      list(calls.run(_asks_once(calls), DOCUMENTS[:3]))
      assert calls.account.total.calls == 3
    with _calls(models, path) as calls:
      assert calls.account.total.calls == 3
    assert sum(models.paid.values()) == 4


# Faults.

FAULTS = {
  ('status', 500): 'http/500',
  ('status', 400): 'http/400',
  'hang': 'timeout',
  'drop': 'connection',
  'truncated': 'connection',
  'garbage': 'garbled',
}


@pytest.mark.parametrize('act', FAULTS, ids=str)
def test_a_fault_is_recorded_and_asked_again_after_a_restart(act, tmp_path):
  path, cause = tmp_path / 'calls.jsonl', FAULTS[act]
  tries = 1 if cause == 'http/400' else 3
  with scripted_models.running(
    said, lambda body, _: act if text_of(body) == 'bad' else 'good'
  ) as models:
    with _calls(models, path, timeout=0.15) as calls:
      good, bad = calls.run(_asks_once(calls), ['good', 'bad'])
      assert good.text == '["good"]' and isinstance(bad, Fault)
      assert bad.cause == cause
      totals = calls.totals()
    assert totals == {
      'asked': 2, 'requests': 1 + tries, f'failed/{cause}': 1,
      f'fault/{cause}': tries,
    }  # fmt: skip
    (line,) = [line for line in _lines(path) if 'fault' in line]
    assert (line['id'], line['fault']) == ('bad', cause)
    assert line['detail'] == bad.detail
    models.act = lambda *_: 'good'
    with _calls(models, path) as calls:
      assert calls.account.total.calls == 1
      good, bad = calls.run(_asks_once(calls), ['good', 'bad'])
      assert (good.is_kept, bad.is_kept) == (True, False)


def test_every_document_is_accounted_for_among_all_faults(tmp_path):
  """Each of three calls of a document may fail in any way, or be repeated."""
  weights = {
    'good': 40, 'fenced': 6, 'wrong_json': 6, 'cut': 4, 'prose': 4, 'empty': 2,
    ('status', 429): 4, 'limited': 4, ('status', 500): 8, ('status', 400): 1,
    'drop': 4, 'truncated': 2, 'garbage': 4, 'hang': 0.4,
  }  # fmt: skip
  path, stages = tmp_path / 'calls.jsonl', ('first', 'second', 'third')
  documents = [f'{i} ' + 'word ' * (i % 7) for i in range(80)]

  async def work(document):
    text = document
    for stage in stages:
      for attempt in range(2):
        reply = await calls.ask(text, stage=stage, id=document, attempt=attempt)
        if isinstance(reply, Fault):
          return reply.cause
        if reply.text.startswith('[') and reply.text.endswith('"]'):
          break
      else:
        return f'{stage} unreadable'
      text = f'{document} {reply.text}'
    return 'done'

  found = []
  with scripted_models.running(said, mixed(weights)) as models:
    for _ in range(2):
      with _calls(
        models, path, stages=stages, concurrency=16, timeout=1.0
      ) as calls:
        found.append(list(calls.run(work, documents)))
        used, totals = calls.account.total, calls.totals()
      # All that the server sent is counted, once.
      assert used.calls == sum(models.paid.values())
      assert used.prompt_tokens == models.used['prompt_tokens']
      assert used.completion_tokens == models.used['completion_tokens']
  outcomes = collections.Counter(found[0])
  assert outcomes.total() == 80 and outcomes['done'] > 30, outcomes
  assert outcomes['http/400'] and outcomes['first unreadable']
  # The second run paid only for what had failed, which it tried again.
  assert max(models.paid.values()) == 1
  again = [a for a, b in zip(*found, strict=True) if a != b]
  assert all(cause in set(FAULTS.values()) for cause in again)
  assert totals['kept'] >= outcomes['done'] * 3
  causes = {f'fault/{cause}' for cause in (*FAULTS.values(), 'http/429')}
  assert {x for x in totals if x.startswith('fault/')} <= causes


def test_a_server_that_refuses_everything_is_a_mistake(tmp_path):
  refusal = ('status', 400, 'seed: unknown field')
  with scripted_models.running(said, lambda *_: refusal) as models:
    with _calls(models, tmp_path / 'calls.jsonl', open_after=4) as calls:
      with pytest.raises(ValueError, match=r"400 'seed: unknown.*fields="):
        list(calls.run(_asks_once(calls), DOCUMENTS))
    assert models.tries.total() <= 4 + 8


def test_a_server_that_is_down_ends_the_run(tmp_path):
  path = tmp_path / 'calls.jsonl'
  with scripted_models.running(said, lambda *_: 'drop') as models:
    with _calls(models, path, open_after=3, wait=0.1) as calls:
      with pytest.raises(Unavailable, match=r'answers so far.*calls\.jsonl'):
        list(calls.run(_asks_once(calls), DOCUMENTS))


# The end of a run.


def test_an_error_of_the_work_lets_calls_in_flight_end(tmp_path):
  path = tmp_path / 'calls.jsonl'

  async def work(document):
    if document == 'document 9':
      await asyncio.sleep(0.1)
      raise KeyError('a bug')
    await calls.ask(document, stage='read', id=document)
    return document

  with scripted_models.running(said, lambda *_: ('slow', 0.3)) as models:
    with _calls(models, path) as calls:
      with pytest.raises(KeyError, match='a bug'):
        list(calls.run(work, DOCUMENTS))
      # The 8 in flight were recorded; no other was sent.
      assert models.tries.total() == len(_lines(path)) == 8
      with pytest.raises(KeyError, match='a bug'):
        list(calls.run(work, DOCUMENTS[20:]))


def test_a_call_that_the_work_gives_up_is_recorded(tmp_path):
  path = tmp_path / 'calls.jsonl'

  async def in_time(document):
    try:
      async with asyncio.timeout(0.1):
        return await calls.ask(document, stage='read', id=document)
    except TimeoutError:
      return None

  async def bug():
    await asyncio.sleep(0.1)
    raise KeyError('a bug')

  async def beside(document):
    await asyncio.gather(calls.ask(document, stage='read', id=document), bug())

  with scripted_models.running(said, lambda *_: ('slow', 0.3)) as models:
    with _calls(models, path) as calls:
      assert list(calls.run(in_time, ['a', 'b'])) == [None, None]
      assert models.paid.total() == len(_lines(path)) == 2
      with pytest.raises(KeyError, match='a bug'):
        list(calls.run(beside, ['c', 'd']))
      assert models.paid.total() == len(_lines(path)) == 4


def test_a_run_that_is_stopped_ends_soon_and_goes_on(tmp_path):
  path = tmp_path / 'calls.jsonl'
  with scripted_models.running(said, lambda *_: ('slow', 0.05)) as models:
    with _calls(models, path) as calls:
      timer = threading.Timer(0.12, calls.stop)
      timer.start()
      with pytest.raises(lib.Stopped, match=r'calls\.jsonl: stopped\. All'):
        list(calls.run(_asks_once(calls), DOCUMENTS))
      timer.join()
    done = len(_lines(path))
    assert 0 < done < 30 and done == models.tries.total()
    with _calls(models, path) as calls:
      assert len(list(calls.run(_asks_once(calls), DOCUMENTS))) == 30
    assert max(models.paid.values()) == 1


def test_a_consumer_that_leaves_early_keeps_what_was_paid_for(tmp_path):
  path = tmp_path / 'calls.jsonl'
  with scripted_models.running(said, lambda *_: ('slow', 0.05)) as models:
    with _calls(models, path) as calls:
      for _ in calls.run(_asks_once(calls), DOCUMENTS):
        break
    assert models.tries.total() == models.paid.total() == len(_lines(path))
    assert len(_lines(path)) < 30


def test_an_interrupt_keeps_what_is_in_flight_and_the_second_leaves(tmp_path):
  path = tmp_path / 'calls.jsonl'

  def interrupt(*_):
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGALRM, interrupt)
  try:
    with scripted_models.running(said, lambda *_: ('slow', 0.5)) as models:
      with _calls(models, path, timeout=60) as calls:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
          list(calls.run(_asks_once(calls), DOCUMENTS))
      assert models.paid.total() == len(_lines(path)) == 8
      models.act = lambda *_: 'hang'
      since = time.monotonic()
      with _calls(models, path, timeout=60) as calls:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        with pytest.raises(KeyboardInterrupt):
          list(calls.run(_asks_once(calls), DOCUMENTS))
        signal.setitimer(signal.ITIMER_REAL, 0)
      assert time.monotonic() - since < 20
      toy.eventually(lambda: models.running == 0)
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# The budget.


def test_a_budget_is_used_up_and_never_exceeded(tmp_path):
  path = tmp_path / 'calls.jsonl'
  # A call uses 2 + 1 tokens, for 2 * 1 + 1 * 2 = 4. It reserves a request of
  # 127 bytes, 64 tokens for its form, and 100 of the reply, for 391. So a call
  # is sent while no more than 109, or 129, have been used: 28 calls, or 33.
  prices = {'org/read': Price(1e6, 2e6)}
  documents = [f'document {i}' for i in range(10, 60)]
  with scripted_models.running(lambda body: 'word') as models:
    for limit, made in ((500, 28), (500, 28), (520, 33)):
      budget = Budget(max_money=limit, prices=prices)
      with _calls(models, path, budget=budget) as calls:
        with pytest.raises(Spent) as caught:
          list(calls.run(_asks_once(calls), documents))
        total = calls.account.total
      assert total == Usage(made, 2 * made, made, 4.0 * made)
      message = str(caught.value)
      assert f'max_money={limit}: {4 * made} used' in message
      assert 'up to 391 needed for the next call' in message
      assert 'start again with a larger budget' in message
      assert len(message.splitlines()) == 1
      assert models.paid.total() == made == len(_lines(path))
    # No price: what was paid is as recorded.
    with _calls(models, path) as calls:
      assert calls.account.total.money == 132
    # Another price, such as a corrected one, holds for all calls.
    budget = Budget(prices={'org/read': Price(1e6, 0)})
    with _calls(models, path, budget=budget) as calls:
      assert calls.account.total.money == 66


def test_calls_in_flight_leave_room_for_others_when_they_end(tmp_path):
  """Four calls have room at a time, eight are allowed, thirty are made."""
  path = tmp_path / 'calls.jsonl'
  with scripted_models.running(
    lambda body: 'word', lambda *_: ('slow', 0.01)
  ) as models:
    budget = Budget(max_tokens=4 * 291 + 30 * 3)
    with _calls(models, path, budget=budget) as calls:
      assert len(list(calls.run(_asks_once(calls), DOCUMENTS))) == 30
    assert models.most_running == 4


# Killed.

PROGRAM = """
import sys
from rlpt_jax.llm.calls import Calls
from rlpt_jax.llm.remote import Endpoint, Patience

async def work(document):
  first = await calls.ask(document, stage='a', id=document)
  second = await calls.ask(document + first.text, stage='b', id=document)
  return second.text

fields = {'max_tokens': 50}
endpoints = {x: Endpoint(url=sys.argv[1], model=x, fields=fields) for x in 'ab'}
patience = Patience(concurrency=4)
with Calls(sys.argv[2], endpoints, patience=patience) as calls:
  for text in calls.run(work, [f'document {i}' for i in range(100)]):
    print(text)
"""


@pytest.mark.slow
def test_kill_9_ten_times_repeats_no_call_that_was_recorded(tmp_path):
  path, rng = tmp_path / 'calls.jsonl', random.Random(3)
  unread, in_flight = [], []  # Replies that are not recorded, by kill.

  def act(body, _):
    return 'slow', 0.005 * (len(text_of(body)) % 7)

  def recorded():
    """Returns the hashes of the bodies whose replies are in the file."""
    return {
      content_key(
        body={
          'model': record['model'], 'max_tokens': 50,
          'messages': [{'role': 'user', 'content': record['prompt']}],
        }
      )
      for record in call_records.read(path)
    }  # fmt: skip

  with scripted_models.running(said, act) as models:
    command = [sys.executable, '-c', PROGRAM, models.url, path]
    start = functools.partial(
      subprocess.Popen, command, stdout=subprocess.PIPE, text=True
    )
    for _ in range(10):
      before = models.paid.copy()
      known = recorded() if path.exists() else set()
      tries = models.tries.total() + rng.randrange(1, 25)
      client = start()
      toy.eventually(lambda tries=tries: models.tries.total() >= tries)
      time.sleep(rng.uniform(0, 0.02))
      sent = models.paid.total()
      client.send_signal(signal.SIGKILL)
      client.communicate()
      toy.eventually(lambda: models.running == 0)
      # Nothing that was recorded has been asked for again.
      assert all(models.paid[key] == before[key] for key in known)
      # No more replies are lost than were in flight: some had been sent when
      # the client was killed, the others were on their way.
      unread.append(sent - before.total() - (len(recorded()) - len(known)))
      in_flight.append(models.paid.total() - sent)
      assert unread[-1] + in_flight[-1] <= 8
    out, _ = start().communicate(timeout=60)
  texts = [f'document {i}' for i in range(100)]
  assert out.split('\n')[:-1] == [
    f'["{(text + said_of(text))[-20:]}"]' for text in texts
  ]
  print(f'\nreplies lost at each kill: {unread} sent, {in_flight} on their way')
  keys = [record['key'] for record in call_records.read(path)]
  assert len(keys) == len(set(keys)) == 200
  assert models.paid.total() == 200 + sum(unread) + sum(in_flight)
