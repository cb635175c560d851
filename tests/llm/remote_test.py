"""A remote judge: every fault on a real socket, one by one and all at once."""

import asyncio
import concurrent.futures
import contextlib
import logging
import random
import re
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest

from rlpt_jax.core import settings
from rlpt_jax.llm import remote as lib
from rlpt_jax.rewards.judge import ByAnswer
from tests.rewards import judges
from tests.rewards.judges import verdict
from tests.serving import toy

KEY = 'sk-this-key-is-nobody-elses'
QUICK = {
  'timeout': 0.3, 'attempts': 4, 'first_delay': 0.002, 'longest_delay': 0.02,
  'open_after': 1000, 'wait': 20.0,
}  # fmt: skip
PROMPTS = [f'question {"x" * i}' for i in range(12)]


def _client(judge, *, cache=None, endpoint=(), **patience) -> lib.Remote:
  asked = {'url': judge.url, 'model': 'org/judge', **dict(endpoint)}
  return lib.Remote(
    lib.Endpoint(**asked), lib.Patience(**{**QUICK, **patience}), cache=cache
  )


def _failures(client) -> dict[str, int]:
  return {k: n for k, n in client.counts.items() if k.startswith('failed/')}


@contextlib.contextmanager
def _without_waiting():
  """Not as long as for something that waits here: ten minutes, an hour."""
  since = time.monotonic()
  yield
  assert time.monotonic() - since < 60


# What is asked and answered.


def test_answers_come_in_order():
  # The last first: those who wait most were asked first.
  with judges.running(
    lambda prompt, _: ('slow', (12 - PROMPTS.index(prompt)) * 0.01)
  ) as judge:
    with _client(judge) as client:
      assert client(PROMPTS) == [verdict(prompt) for prompt in PROMPTS]
      assert client([]) == []
    assert judge.answered[0] == PROMPTS[-1]
  assert client.counts == {'asked': 12, 'requests': 12, 'cached': 0}


def test_what_is_sent(monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', f'{KEY}\n')
  with judges.running() as judge:
    with _client(judge, endpoint={'key_env': 'JUDGE_KEY'}) as client:
      client(['a'])
    endpoint = {'chat': False, 'fields': {'max_tokens': 2, 'top_k': 1}}
    with _client(judge, endpoint=endpoint) as client:
      assert client(['a']) == [verdict('a')]
    (_, path, body, headers), (_, other, plain, without) = judge.seen
  assert (path, other) == ('/v1/chat/completions', '/v1/completions')
  assert body == {
    'model': 'org/judge', 'max_tokens': 16, 'temperature': 0, 'seed': 0,
    'messages': [{'role': 'user', 'content': 'a'}],
  }  # fmt: skip
  assert plain == {
    'model': 'org/judge', 'max_tokens': 2, 'top_k': 1, 'prompt': 'a'
  }  # fmt: skip
  assert headers['Authorization'] == f'Bearer {KEY}'
  assert 'Authorization' not in without


def test_a_conversation_is_sent_as_it_is():
  messages = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': 'Why?'},
  ]
  endpoint = lib.Endpoint(url='http://judge/v1', model='m')
  assert endpoint.body(messages)['messages'] == messages
  base = lib.Endpoint(url='http://judge/v1', model='m', chat=False)
  with pytest.raises(ValueError, match=r"model='m', chat=False: expected the"):
    base.body(messages)


def test_our_own_server():
  said = toy.ToyEngine(say=lambda request, sample: 'Score: 1')
  with (
    toy.running(said, token=KEY) as server,
    pytest.MonkeyPatch.context() as m,
  ):
    m.setenv('JUDGE_KEY', KEY)
    endpoint = lib.Endpoint(
      url=f'{server.url}/v1', model='toy', key_env='JUDGE_KEY'
    )
    with lib.Remote(endpoint) as client:
      assert client(['Is it right?', 'And this?']) == ['Score: 1'] * 2
    assert {r.temperature for r in said.submitted} == {0}
    # What it says of a mistake reaches who can mend it.
    m.setenv('JUDGE_KEY', 'wrong')
    with lib.Remote(endpoint) as client:
      with pytest.raises(ValueError, match=r'HTTP 401.*\$JUDGE_KEY'):
        client(['Is it right?'])


def test_a_run_with_another_judge_is_another_run():
  """The same model elsewhere or asked with more patience is the same judge."""

  def described(url='http://a:1/v1', model='m', wait=1.0, **fields):
    endpoint = lib.Endpoint(url=url, model=model, **fields)
    with lib.Remote(endpoint, lib.Patience(wait=wait)) as client:
      return settings.describe(ByAnswer(client))

  usual = described()
  assert described(url='http://b:2/v1', wait=9.0) == usual
  for change, path in (
    ({'model': 'other'}, 'model'), ({'chat': False}, 'chat'),
    ({'fields': {'max_tokens': 8, 'temperature': 0, 'seed': 0}}, 'fields.max'),
  ):  # fmt: skip
    (found,) = settings.differences(usual, described(**change))
    assert re.match(rf'.*\bcomplete\.{path}.* was ', found), found


def test_no_more_at_a_time_than_allowed():
  with judges.running(lambda *_: 'slow') as judge:
    with _client(judge, concurrency=5) as client:
      client([str(i) for i in range(23)])
    assert judge.most_running == 5


def test_inside_a_loop_and_from_several_threads():
  with judges.running() as judge, _client(judge) as client:

    async def notebook():
      return client(PROMPTS)

    expected = [verdict(prompt) for prompt in PROMPTS]
    assert asyncio.run(notebook()) == expected
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      for found in pool.map(client, [PROMPTS] * 4):
        assert found == expected


# Faults.

FAULTS = {
  'drop': 'connection',
  'truncated': 'connection',
  'garbage': 'garbled',
  'other_json': 'garbled',
  'flood': 'garbled',
  'hang': 'timeout',
  'drip': 'timeout',
  ('other_json', '{"choices": [{"message": {"content": 3}}]}'): 'garbled',
  ('other_json', '{"choices": {"message": 3}}'): 'garbled',
  ('other_json', '[' * 100_000): 'garbled',
  ('other_json', '{"choices": [{"text": "Sco'): 'garbled',
  ('status', 500): 'http/500',
  ('status', 503): 'http/503',
  ('status', 408): 'http/408',
  ('status', 429): 'http/429',
}


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: str(fault)[:40])
def test_a_fault_is_tried_again(fault):
  def act(prompt, nth):
    return fault if prompt == 'b' and nth <= 2 else 'answer'

  with judges.running(act) as judge, _client(judge) as client:
    assert client(['a', 'b', 'c']) == [verdict(p) for p in 'abc']
    assert judge.tries == {'a': 1, 'b': 3, 'c': 1}
    assert _failures(client) == {}


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: str(fault)[:40])
def test_a_fault_that_stays_is_no_answer(fault):
  def act(prompt, nth):
    return fault if prompt == 'b' else 'answer'

  cause = FAULTS[fault]
  with judges.running(act) as judge, _client(judge, wait=0.2) as client:
    assert client(['a', 'b', 'c']) == [verdict('a'), None, verdict('c')]
    if cause == 'http/429':  # As long as the run waits, not four times.
      assert judge.tries['b'] > 5
    else:
      assert judge.tries['b'] == 4
    assert _failures(client) == {f'failed/{cause}': 1}


def test_the_delay_doubles_and_is_random_from_zero():
  drawn = []
  with judges.running(lambda *_: ('status', 500)) as judge:
    with _client(
      judge, attempts=6, first_delay=0.001, longest_delay=0.005
    ) as client:
      client.server.random = random.Random()
      client.server.random.uniform = lambda a, b: drawn.append((a, b)) or 0
      assert client(['a']) == [None]
  assert drawn == [(0, 0.001), (0, 0.002), (0, 0.004), (0, 0.005), (0, 0.005)]
  # The generators of two clients do not follow the run's, or each other.
  one, other = (_client(judge).server.random.random() for _ in range(2))
  assert one != other


def test_retry_after_is_for_all():
  limited = ('status', 429, 'slow down', {'Retry-After': '0.6'})

  def act(prompt, nth):
    if prompt == 'first' and nth == 1:
      return limited
    return ('slow', 0.05)

  with judges.running(act) as judge, _client(judge, concurrency=2) as client:
    prompts = ['first', *map(str, range(8))]
    assert client(prompts) == [verdict(p) for p in prompts]
    times = sorted(at for at, *_ in judge.seen)
  # 'first' and its neighbour; the one that took its place may have passed.
  asked_before = [at for at in times if at < times[0] + 0.55]
  assert len(asked_before) <= 3
  assert len(times) == 10


@pytest.mark.slow
def test_a_thousand_calls_with_random_faults(tmp_path):
  rng = random.Random(0)
  faults = ['drop', 'truncated', 'garbage', 'other_json', 'slow',
    ('status', 500), ('status', 502), ('status', 429),
    ('status', 429, 'wait', {'Retry-After': '0.05'}),
    ('status', 503, 'wait', {'Retry-After': '0.02'})]  # fmt: skip
  plan = {}  # Until when each fails; a few hang as well.

  def act(prompt, nth):
    if prompt not in plan:
      plan[prompt] = [rng.choice(faults) for _ in range(rng.randrange(5))]
      if rng.random() < 0.02:
        plan[prompt].append('hang')
    return plan[prompt][nth - 1] if nth <= len(plan[prompt]) else 'answer'

  prompts = [f'{i} {"y" * rng.randrange(50)}' for i in range(1000)]
  cache = tmp_path / 'answers.jsonl'
  with judges.running(act) as judge:
    with _client(
      judge, cache=cache, attempts=8, concurrency=48, open_after=12
    ) as client:
      assert client(prompts) == [verdict(p) for p in prompts]
      assert _failures(client) == {}
      assert judge.most_running <= 48
    asked = set(judge.answered) - {lib.PROBE}
    assert asked == set(prompts)
    assert sum(judge.tries[p] for p in prompts) > 2500
    # All of it is kept.
    judge.act = lambda *_: 'drop'
    with _client(judge, cache=cache) as client:
      assert client(prompts) == [verdict(p) for p in prompts]
      assert client.counts['requests'] == 0


# A judge that is down.


def test_a_run_waits_for_a_judge_that_is_down(caplog, monkeypatch):
  monkeypatch.setattr(lib, 'REMIND_S', 0.4)
  with (
    judges.running() as judge,
    _client(judge, open_after=5, concurrency=4, longest_delay=0.1) as client,
  ):
    assert client(['before']) == [verdict('before')]
    judge.stop()
    back = threading.Timer(1.0, judge.start)
    back.start()
    assert client(PROMPTS) == [verdict(prompt) for prompt in PROMPTS]
    back.join()
    # Few asked in vain: 5 to open, 3 on their way, probes.
    tries = client.counts['requests'] - 1 - len(PROMPTS)
    assert 8 <= tries <= 8 + 20
    assert _failures(client) == {}
  said = [record.getMessage() for record in caplog.records]
  assert 'does not answer (ClientConnectorError' in said[0]
  since = re.search(
    r'waiting for it since (..:..:..), for at most 20 s', said[0]
  )
  for reminder in said[1:-1]:
    assert reminder.startswith(f'{judge.url}: still waiting since {since[1]},')
    assert re.search(r'[01] of 20 s \(ClientConnectorError', reminder)
  assert 'answers again after 1 s' in said[-1]
  assert len(said) in (3, 4)


def test_a_run_stops_with_one_line_and_nothing_is_lost(tmp_path, caplog):
  cache = tmp_path / 'answers.jsonl'
  with judges.running() as judge:
    judge.act = lambda prompt, _: (
      'answer' if prompt in PROMPTS[:6] else ('status', 502, 'bad\ngateway')
    )
    with _client(
      judge, cache=cache, open_after=3, concurrency=2, wait=0.5, attempts=50
    ) as client:
      with _without_waiting(), pytest.raises(lib.Unavailable) as caught:
        client(PROMPTS)
      message = str(caught.value)
      assert len(message.splitlines()) == 1
      assert judge.url in message and str(cache) in message
      assert "(wait=0.5), last: HTTP 502 'bad gateway'" in message
      # `rlpt` prints what an OSError says, without a traceback.
      assert isinstance(caught.value, OSError)
      # It is still down, and says so again.
      with pytest.raises(lib.Unavailable):
        client(PROMPTS)
    # Each time, of all that wait one says so.
    assert caplog.text.count('does not answer') == 2
    judge.act = lambda *_: 'answer'
    judge.tries.clear()
    with _client(judge, cache=cache) as client:
      assert client(PROMPTS) == [verdict(prompt) for prompt in PROMPTS]
      assert set(judge.tries) == set(PROMPTS[6:])


@pytest.mark.parametrize(
  ('told_by', 'answer', 'open_after'),
  [
    (lib.PROBE, ('status', 502), 1),
    ('a', ('status', 502), 1),
    ('a', ('status', 429, 'later', {'Retry-After': '600'}), 9),
  ],
)
def test_a_run_that_is_to_leave_waits_no_more(told_by, answer, open_after):
  def act(prompt, nth):
    if prompt == told_by:
      client.stop_waiting()
    return answer

  with (
    judges.running(act) as judge,
    _client(judge, wait=600, open_after=open_after) as client,
    _without_waiting(),
    pytest.raises(lib.Unavailable, match=r'of waiting \(preempted\), last'),
  ):
    client(['a'])


def test_a_question_that_breaks_the_judge_stops_nothing():
  def act(prompt, nth):
    return ('status', 500) if prompt.startswith('poison') else 'answer'

  with (
    judges.running(act) as judge,
    _client(judge, open_after=2, concurrency=2, wait=600) as client,
  ):
    prompts = ['poison', 'a', 'poison 2', 'b', 'poison 3']
    with _without_waiting():
      assert client(prompts) == [None, verdict('a'), None, verdict('b'), None]
    assert _failures(client) == {'failed/http/500': 3}
    assert judge.tries[lib.PROBE] >= 1


def test_while_it_is_down_only_probes_are_sent():
  down = threading.Event()
  down.set()

  def act(prompt, nth):
    return ('status', 503) if down.is_set() else 'answer'

  with (
    judges.running(act) as judge,
    _client(judge, open_after=4, concurrency=4, longest_delay=0.05) as client,
  ):
    timer = threading.Timer(0.5, down.clear)
    timer.start()
    assert client(PROMPTS) == [verdict(prompt) for prompt in PROMPTS]
    timer.join()
  in_vain = judge.tries.copy()
  in_vain.subtract(PROMPTS)
  probes = in_vain.pop(lib.PROBE)
  # 4 opened it, when 3 that had taken their places were on their way.
  assert sum(in_vain.values()) <= 4 + 3
  assert probes > 5


# Asked at the start of a run.


def test_at_the_start_a_judge_that_is_down_is_waited_for(caplog):
  def act(prompt, nth):
    return ('status', 503) if judge.tries[lib.PROBE] < 3 else 'answer'

  with judges.running(act) as judge, _client(judge) as client:
    assert client.ask_now(['a', 'b']) == [verdict('a'), verdict('b')]
    # One fault is enough to wait.
    assert judge.tries == {'a': 2, 'b': 1, lib.PROBE: 3}
  said = [record.getMessage() for record in caplog.records]
  assert f"{judge.url} does not answer (HTTP 503 'no'); waiting" in said[0]
  judge.act = lambda *_: 'drop'
  with _client(judge, wait=0.05) as client:
    with _without_waiting(), pytest.raises(lib.Unavailable):
      client.ask_now(['a'])


def test_at_the_start_it_is_the_server_that_is_asked(tmp_path):
  cache = tmp_path / 'answers.jsonl'
  with judges.running() as judge, _client(judge, cache=cache) as client:
    client(['a'])
    assert client.ask_now(['a']) == [verdict('a')]
    assert judge.tries == {'a': 2}


@pytest.mark.parametrize(
  ('act', 'message'),
  [
    (('status', 400, 'seed: unknown field'), r"400 'seed: unknown.*fields="),
    (('status', 404, 'no such model'), r"404 'no such model'.*model='org"),
    (
      ('status', 400, 'default chat template is no longer allowed'),
      r"model='org/judge' has no chat template there: .*Endpoint\.chat = False",
    ),
  ],
)
def test_at_the_start_a_mistake_is_told(act, message):
  with judges.running(lambda *_: act) as judge, _client(judge) as client:
    with pytest.raises(ValueError, match=message) as caught:
      client.ask_now(['a'])
    assert len(str(caught.value).splitlines()) == 1
    assert sum(judge.tries.values()) == 1


# Mistakes.


@pytest.mark.parametrize('status', [301, 307, 401, 403, 404, 405])
def test_a_mistake_is_told_at_once(status):
  headers = {'Location': 'http://127.0.0.1:9/v1'} if status < 400 else {}
  act = ('status', status, 'no such\nmodel', headers)
  with judges.running(lambda *_: act) as judge, _client(judge) as client:
    with _without_waiting(), pytest.raises(ValueError) as caught:
      client(PROMPTS)
  message = str(caught.value)
  assert f'HTTP {status}' in message and "'no such model'" in message
  assert "model='org/judge'" in message and judge.url in message
  assert len(message.splitlines()) == 1
  assert max(judge.tries.values()) == 1


def test_after_an_answer_it_is_a_fault():
  def act(prompt, nth):
    return ('status', 404) if prompt == 'b' and nth < 3 else 'answer'

  with judges.running(act) as judge, _client(judge) as client:
    assert client(['a']) == [verdict('a')]
    assert client(['a', 'b']) == [verdict('a'), verdict('b')]


def test_a_question_that_is_refused_is_no_answer():
  def act(prompt, nth):
    return ('status', 400, 'too long') if len(prompt) > 15 else 'answer'

  with judges.running(act) as judge, _client(judge, open_after=2) as client:
    found = client(PROMPTS)
    assert found[:7] == [verdict(prompt) for prompt in PROMPTS[:7]]
    assert found[7:] == [None] * 5
    assert _failures(client) == {'failed/http/400': 5}
    assert set(judge.tries.values()) == {1}
    assert client(PROMPTS[7:]) == [None] * 5


def test_if_every_question_is_refused_it_is_a_mistake():
  act = ('status', 422, 'seed: unknown field')
  with judges.running(lambda *_: act) as judge, _client(judge) as client:
    with pytest.raises(ValueError, match=r"422 'seed: unknown field'.*fields="):
      client(PROMPTS)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'url': 'judge:8000'}, "url='judge:8000': expected an address"),
    ({'url': f'http://me:{KEY}@judge/v1'}, 'Pass a key with key_env'),
    ({'url': f'http://judge/v1?key={KEY}'}, 'Pass a key with key_env'),
    ({'fields': {'n': 2}}, "'n' is set by rlpt"),
    ({'key_env': 'NO_SUCH_KEY'}, 'key_env=NO_SUCH_KEY: .* not set, or empty'),
    ({'key_env': 'BAD_KEY'}, 'key_env=BAD_KEY: .*not plain ASCII'),
  ],
)
def test_what_cannot_work_is_refused(fields, message, monkeypatch):
  monkeypatch.delenv('NO_SUCH_KEY', raising=False)
  monkeypatch.setenv('BAD_KEY', f'{KEY}\r\nX: y')
  fields = {'url': 'http://127.0.0.1:9/v1', 'model': 'm', **fields}
  with pytest.raises(ValueError, match=message) as caught:
    lib.Remote(lib.Endpoint(**fields))
  assert KEY not in str(caught.value)


@pytest.mark.parametrize('field', ['concurrency', 'timeout', 'wait'])
def test_patience_is_more_than_nothing(field):
  with pytest.raises(ValueError, match=rf'Patience\.{field}=0: expected a '):
    lib.Patience(**{field: 0})


# The key.


def test_the_key_is_seen_nowhere(tmp_path, monkeypatch, caplog, capfd):
  """The server repeats it in every way; nothing that we say or keep has it."""
  caplog.set_level(logging.DEBUG)
  monkeypatch.setenv('JUDGE_KEY', KEY)
  cache = tmp_path / 'answers.jsonl'
  escaped = ''.join(f'\\u{ord(c):04x}' for c in KEY)
  acts = {
    'answer': 'answer',
    'say': ('say', f'Score: 1, {KEY}'),
    'escaped': ('other_json', f'{{"choices": [{{"text": "{escaped}"}}]}}'),
    'refused': ('status', 400, f'prompt with {KEY}'),
    'garbage': ('other_json', f'your key is {KEY}'),
    'header': ('status', 500, KEY, {'X-Key': KEY, 'Retry-After': KEY}),
    'drop': 'drop', 'truncated': 'truncated',
  }  # fmt: skip
  texts = []
  with judges.running(lambda prompt, _: acts.get(prompt, 'answer')) as judge:
    endpoint = {'key_env': 'JUDGE_KEY'}

    def fail(client, prompts, error):
      with pytest.raises(error) as caught:
        client(prompts)
      texts.append(repr(caught.value) + str(caught.value))
      # Some tracebacks show the local variables of every frame.
      shown = traceback.TracebackException.from_exception(
        caught.value, capture_locals=True
      )
      texts.extend(shown.format())

    with _client(judge, endpoint=endpoint, cache=cache) as client:
      answers = client(list(acts))
      assert answers[:2] == [verdict('answer'), 'Score: 1, [key]']
      texts += [repr(answers), repr(vars(client)), repr(client.counts)]
    for act in (('status', 401, f'wrong key {KEY}'), ('status', 400, KEY)):
      judge.act = lambda *_, act=act: act
      with _client(judge, endpoint=endpoint) as client:
        fail(client, ['a'], ValueError)
    # Half of a message that is cut must not be half of the key.
    said = 'x' * (200 - len(KEY) // 2) + KEY
    judge.act = lambda *_: ('status', 502, said)
    with _client(judge, endpoint=endpoint, open_after=1, wait=0.1) as client:
      fail(client, ['a'], lib.Unavailable)
  texts += [cache.read_text(), caplog.text, *capfd.readouterr()]
  assert 'HTTP 502' in caplog.text
  for text in texts:
    assert KEY not in text and KEY[: len(KEY) // 2] not in text


def test_a_short_key_cuts_nothing_out_of_answers(monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', '1')
  with judges.running(lambda *_: ('say', 'Score: 1')) as judge:
    with _client(judge, endpoint={'key_env': 'JUDGE_KEY'}) as client:
      assert client(['a']) == ['Score: 1']


def test_another_host_does_not_get_the_key(monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', KEY)
  with judges.running() as thief, judges.running() as judge:
    to = {'Location': f'{thief.url}/chat/completions'}
    judge.act = lambda *_: ('status', 307, 'there', to)
    with _client(judge, endpoint={'key_env': 'JUDGE_KEY'}) as client:
      with pytest.raises(ValueError, match='HTTP 307'):
        client(['a'])
    assert not thief.seen


# The cache.


def test_a_question_is_paid_for_once(tmp_path):
  cache = tmp_path / 'answers.jsonl'
  with judges.running() as judge:
    with _client(judge, cache=cache) as client:
      client(['a', 'b'])
      assert client(['b', 'c', 'a']) == [verdict(p) for p in 'bca']
      assert client.counts == {'asked': 5, 'cached': 2, 'requests': 3}
    for endpoint, tries in (
      ({}, 0),
      ({'fields': {'seed': 0, 'temperature': 0, 'max_tokens': 16}}, 0),
      ({'model': 'another'}, 1),
      ({'fields': {'max_tokens': 17}}, 1),
      ({'chat': False}, 1),
      ({'url': judge.url + '/'}, 0),
    ):
      judge.tries.clear()
      with _client(judge, cache=cache, endpoint=endpoint) as client:
        assert client(['a']) == [verdict('a')]
      assert judge.tries['a'] == tries, endpoint
  assert 'question' not in cache.read_text()


@pytest.mark.parametrize('said', ['', ' \n', None])
def test_an_answer_that_says_nothing_is_not_kept(said, tmp_path):
  cache = tmp_path / 'answers.jsonl'
  with judges.running(lambda *_: ('say', said)) as judge:
    with _client(judge, cache=cache) as client:
      assert client(['a']) == [said or '']
    judge.act = lambda *_: 'answer'
    with _client(judge, cache=cache) as client:
      assert client(['a']) == [verdict('a')]


# The end.


def test_close_ends_a_call_of_another_thread():
  before = threading.active_count()
  with judges.running(lambda *_: 'hang') as judge:
    client = _client(judge, timeout=600)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      calls = [pool.submit(client, PROMPTS) for _ in range(2)]
      toy.eventually(lambda: judge.running == 12)
      with _without_waiting():
        client.close()
      for call in calls:
        with pytest.raises((RuntimeError, concurrent.futures.CancelledError)):
          call.result(2)
    with pytest.raises(RuntimeError, match='asked after it was closed'):
      client(['a'])
    client.close()  # Again.
  assert threading.active_count() == before


def test_an_interrupt_withdraws_the_question():
  with judges.running(lambda *_: 'hang') as judge:
    with _client(judge, timeout=600) as client:
      signal.setitimer(signal.ITIMER_REAL, 0.3)

      def interrupt(*_):
        raise KeyboardInterrupt

      before = signal.signal(signal.SIGALRM, interrupt)
      try:
        with _without_waiting():
          with pytest.raises(KeyboardInterrupt):
            client(PROMPTS)
          # The same client goes on.
          judge.act = lambda *_: 'answer'
          assert client(['a']) == [verdict('a')]
      finally:
        signal.signal(signal.SIGALRM, before)
    toy.eventually(lambda: judge.running == 0)


def test_a_client_that_is_never_closed_does_not_keep_the_process():
  program = (
    'import sys\n'
    'from rlpt_jax.llm import remote\n'
    "assert 'aiohttp' not in sys.modules\n"
    "endpoint = remote.Endpoint(url=sys.argv[1], model='m')\n"
    'client = remote.Remote(endpoint)\n'
    "print(client(['a']))\n"
    'raise SystemExit(3)\n'
  )
  with judges.running() as judge:
    done = subprocess.run(
      [sys.executable, '-W', 'always', '-c', program, judge.url],
      timeout=20, capture_output=True, text=True,
    )  # fmt: skip
  assert (done.returncode, done.stdout) == (3, f"['{verdict('a')}']\n")
  assert done.stderr == ''
