"""Sums, prices and reservations; budgets of whole runs are in calls_test.py."""

import asyncio

import pytest

from rlpt_jax.llm import budget as lib
from rlpt_jax.llm.budget import Account, Budget, Price, Spent, Usage
from rlpt_jax.llm.chat_api import Tokens


def test_a_price_is_for_a_million_tokens():
  assert Price(2.0, 8.0)(Tokens(1000, 500)) == pytest.approx(0.006)
  with pytest.raises(ValueError, match=r'Price\.completion=-1: expected'):
    Price(1, -1)


def test_usage_is_summed_by_stage():
  account = Account(Budget(prices={'m': Price(1e6, 2e6)}))
  account.add('a', account.usage('m', Tokens(3, 1)))
  account.add('a', account.usage('free', Tokens(10, 10, is_estimated=True)))
  account.add('b', account.usage('m', Tokens(1, 0)))
  assert account.by_stage == {
    'a': Usage(2, 13, 11, 5.0, estimated=1), 'b': Usage(1, 1, 0, 1.0),
  }  # fmt: skip
  assert account.total == Usage(3, 14, 11, 6.0, estimated=1)
  assert account.total.tokens == 25


def test_the_most_that_a_call_may_use():
  # Bytes, and 64 for each message; what is unlimited counts as nothing.
  body = {'prompt': 'four水\ud800', 'max_tokens': 7}
  size = len('{"prompt": "four???x", "max_tokens": 7}')
  assert lib.most_tokens(body, 3) == Tokens(size + 3 * 64, 7)
  assert lib.most_tokens({}, 0) == Tokens(2, 0)
  fields = {'max_tokens': 7, 'max_completion_tokens': 9}
  assert lib.max_completion(fields) == 9
  assert lib.max_completion({'max_tokens': None}) is None


def test_a_size_that_is_not_reported_follows_from_the_characters():
  assert lib.estimated_tokens(9, 'four') == Tokens(3, 1, is_estimated=True)
  assert lib.estimated_tokens(0, '') == Tokens(0, 0, is_estimated=True)


@pytest.mark.parametrize(
  ('budget', 'fields', 'message'),
  [
    ({'max_money': 1.0}, {'max_tokens': 1}, r"prices=.* for 'm', since"),
    ({'max_tokens': 9}, {}, r"m: fields=\{\}: expected 'max_tokens', since"),
    ({'max_money': 0.0}, {}, r'Budget\.max_money=0\.0: expected'),
    ({'max_tokens': 1.5}, {}, r'Budget\.max_tokens=1\.5: expected'),
  ],
)  # fmt: skip
def test_a_budget_that_cannot_be_kept_is_refused(budget, fields, message):
  with pytest.raises(ValueError, match=message):
    Budget(**budget).check('m', fields)
  Budget().check('m', {})


def test_a_call_waits_for_what_others_may_return():
  account, order = Account(Budget(max_tokens=10)), []

  async def call(name, most, used, end):
    async with account.reserving(Usage(1, most)):
      order.append(name)
      await end.wait()
      account.add('s', Usage(1, used))

  async def main():
    first, second, third = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(call('first', 6, 1, first))]
    tasks += [asyncio.create_task(call('second', 6, 6, second))]
    await asyncio.sleep(0.01)
    assert order == ['first']  # 12 would be too many.
    first.set()
    await asyncio.sleep(0.01)
    assert order == ['first', 'second']  # 1 + 6.
    tasks += [asyncio.create_task(call('third', 4, 4, third))]
    await asyncio.sleep(0.01)
    assert order == ['first', 'second']
    second.set()  # 7 were used, and 4 are needed: too many.
    with pytest.raises(Spent, match=r'max_tokens=10: 7 used, up to 4 needed'):
      await tasks[2]
    # That was the end, also for a smaller call.
    with pytest.raises(Spent, match='after 2 calls'):
      await call('fourth', 1, 1, third)
    await asyncio.gather(*tasks[:2])

  asyncio.run(asyncio.wait_for(main(), 30))


def test_a_call_that_fails_returns_all_that_it_reserved():
  account = Account(Budget(max_tokens=10))

  async def main():
    for _ in range(3):
      with pytest.raises(KeyError):
        async with account.reserving(Usage(1, 10)):
          raise KeyError
    async with account.reserving(Usage(1, 10)):
      account.add('s', Usage(1, 10))
    with pytest.raises(Spent, match='10 used, up to 1 needed'):
      async with account.reserving(Usage(1, 1)):
        pass

  asyncio.run(asyncio.wait_for(main(), 30))
