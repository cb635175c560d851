"""The thread that owns the engine: jobs in, events out, nothing left behind."""

import asyncio
import threading

import pytest

from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.serving.protocol import ApiError
from rlpt_jax.serving.worker import Worker
from tests.serving.toy import ENDLESS, ToyEngine, eventually


def _request(text='ab', **fields):
  ids = tuple(text.encode())
  return Request(
    prompt_tokens=ids, id=text, **{'max_new_tokens': 10**6, **fields}
  )


def _run(scenario, engine=None, max_samples=100):
  """Runs `await scenario(worker, engine)` in a loop of its own."""
  engine = engine or ToyEngine()

  async def main():
    with Worker(Sampler(engine), max_samples=max_samples) as worker:
      await asyncio.wait_for(scenario(worker, engine), 60)
      return worker

  worker = asyncio.run(main())
  assert not [t for t in threading.enumerate() if t.name.startswith('engine')]
  return worker


async def _ids(job):
  """{sample: its tokens, to the end of all}."""
  assert await job.next() is None
  said, ended = {}, 0
  while ended < sum(request.samples for request in job.requests):
    index, completion = await job.next()
    said.setdefault(index, []).extend(completion.tokens.tolist())
    ended += completion.finish_reason is not None
  return said


def test_samples_are_numbered_through_all_requests():
  async def scenario(worker, engine):
    job = worker.submit((_request('a', samples=3), _request('b', samples=2)))
    assert worker.samples == 5
    said = await _ids(job)
    texts = [bytes(said[i][:-1]).decode() for i in range(5)]
    assert texts == [
      ' a/0/0/1', ' a/1/0/1', ' a/2/0/1', ' b/0/0/1', ' b/1/0/1',
    ]  # fmt: skip
    assert worker.samples == 0
    assert engine.threads == {'engine_0'}
    assert not worker._sampler._deliver

  _run(scenario)


def test_it_sleeps_while_there_is_nothing_to_do():
  """It asks the engine for work once, then waits for a command."""

  async def scenario(worker, engine):
    for steps in (0, 3):  # 'ab' is said in three.
      await asyncio.sleep(0.1)
      asked = engine.asked
      await asyncio.sleep(0.2)
      # Once more where the thread was late, never every few milliseconds.
      assert engine.asked <= asked + 1
      assert engine.steps == steps
      if not steps:
        await _ids(worker.submit((_request(),)))

  _run(scenario)


def test_what_the_engine_refuses_is_an_error_of_that_job_alone():
  async def scenario(worker, engine):
    good = worker.submit((_request('good'),))
    bad = worker.submit((_request('fine'), _request('never')))
    with pytest.raises(ApiError, match=r'^this cannot be served$') as info:
      await bad.next()
    assert info.value.status == 400
    # What was submitted before is taken back.
    assert engine.cancelled == [(1, None)]
    assert len((await _ids(good))[0]) > 4
    assert worker.samples == 0 and not worker._sampler._deliver

  _run(scenario)


def test_cancelling_a_job_and_a_sample():
  async def scenario(worker, engine):
    job = worker.submit((_request('a', samples=3), _request('b', samples=3)))
    await job.next()
    worker.cancel(job, 4)
    worker.cancel(job, 4)
    assert worker.samples == 5
    worker.cancel(job)
    worker.cancel(job)
    assert worker.samples == 0
    await asyncio.to_thread(eventually, lambda: engine.is_idle)
    # Of the second request the others are left, and go one by one.
    first, second, *others = engine.cancelled
    assert (first, second) == ((1, 1), (0, None))
    assert sorted(others) == [(1, 0), (1, 2)]

  _run(scenario, ToyEngine(**ENDLESS))


def test_a_queue_that_is_full_says_so_and_frees_itself():
  async def scenario(worker, engine):
    first = worker.submit((_request(samples=3),))
    second = worker.submit((_request(samples=2),))
    with pytest.raises(ApiError, match='5 completions run or wait') as info:
      worker.submit((_request(),))
    assert info.value.status == 429
    assert info.value.headers['Retry-After']
    worker.cancel(second, 1)
    third = worker.submit((_request(),))
    await _ids(first)
    await _ids(third)
    worker.cancel(second)
    assert worker.samples == 0

  _run(scenario, max_samples=5)


def test_an_engine_that_fails_fails_all_jobs_at_once():
  async def scenario(worker, engine):
    jobs = [worker.submit((_request(),)) for _ in range(3)]
    for job in jobs:
      assert await job.next() is None
      with pytest.raises(ApiError, match='FloatingPointError: the chip') as e:
        while True:
          await job.next()
      assert e.value.status == 500
    assert isinstance(await worker.failed, FloatingPointError)
    with pytest.raises(ApiError, match='the chip is gone'):
      worker.submit((_request(),))
    assert worker.samples == 0
    await worker.drain(5)  # Nothing to wait for.

  _run(scenario, ToyEngine(fail_at=2))


def test_draining_waits_for_what_runs_and_takes_nothing_new():
  async def scenario(worker, engine):
    job = worker.submit((_request(),))
    draining = asyncio.ensure_future(worker.drain(10))
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match='shutting down') as info:
      worker.submit((_request(),))
    assert info.value.status == 503
    assert (await _ids(job))[0]
    await draining
    assert engine.cancelled == []

  _run(scenario, ToyEngine(seconds=0.01))


def test_draining_ends_what_takes_too_long():
  async def scenario(worker, engine):
    job = worker.submit((_request(),))
    assert await job.next() is None
    await worker.drain(0.05)
    with pytest.raises(ApiError, match='shutting down'):
      while True:
        await job.next()
    await asyncio.to_thread(eventually, lambda: engine.is_idle)
    assert engine.cancelled == [(0, None)]

  _run(scenario, ToyEngine(**ENDLESS))


def test_closing_does_not_wait_for_what_runs():
  async def scenario(worker, engine):
    worker.submit((_request(),))
    await asyncio.sleep(0.05)

  engine = ToyEngine(**ENDLESS)
  _run(scenario, engine)
  assert engine.steps < 1000  # Of 2500.
