"""Judges from disk, as a gin file names them."""

import functools

import jax
import numpy as np
import pytest

from rlpt_jax.core import one_host, settings, weights
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.inference import judges, local_judge
from rlpt_jax.llm import remote
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import flops, huggingface, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.rewards import combine, extract, judge, likelihood

CONFIG = zoo.get('tiny_llama')
EXAMPLE = Example(np.array([1], np.int32), ('a b. ', 'c'), 'asr', 'c', 'd', 0)
TEXTS = [f'so {extract.START}{text}{extract.END}' for text in 'abcde']
PROMPT = 'R {reference} P {predicted}'
QUESTIONS = [f'R a b. c P {text}' for text in 'abcde']
OPTIONS = {
  'tokenizer': 'bytes', 'chat': False, 'dtype': 'float32',
  'layout': Axes(devices=1), 'max_prompt_tokens': 37,
}  # fmt: skip


@pytest.fixture(scope='module')
def params(one_device):
  specs = decoder_lib.specs(CONFIG)
  return weights.init(specs, jax.random.key(0), layout=one_device)


@pytest.fixture(scope='module')
def model(tmp_path_factory, params):
  directory = tmp_path_factory.mktemp('judge') / 'tiny'
  arrays = [
    (path, np.dtype('float32'), lambda x=x: np.asarray(x))
    for path, x in weights.named(params)
  ]
  huggingface.save(directory, CONFIG, decoder_lib.specs(CONFIG), arrays)
  return str(directory)


@pytest.fixture(scope='module')
def decoder(one_device):
  return Decoder(CONFIG, Compute(dtype='float32'), one_device)


def test_weighing(model, decoder, params):
  weighing = judges.Weighing(model=model, rows=2, **OPTIONS)
  reward = judge.ByProbability(weighing, prompt=PROMPT, threshold=None)
  found = reward([EXAMPLE], [TEXTS])
  score = local_judge.scorer(
    decoder, params, ByteTokenizer(), chat=False, rows=2
  )
  expected = [judge.weigh(*x, threshold=None) for x in score(QUESTIONS)]
  np.testing.assert_array_equal(
    found.rewards_PG[0], np.float32([verdict.reward for verdict in expected])
  )
  # Beginning, question, two line breaks and 'Score: '; then '0' and '1'.
  read = 1 + len(QUESTIONS[0]) + 2 + 7
  assert weighing.spent == {
    'tokens': 5 * (read + 2), 'flops': 5 * flops.rollout(CONFIG, read, [2]),
  }  # fmt: skip


@pytest.mark.slow
def test_answering(model):
  answering = judges.Answering(
    model=model, slots=3, max_new_tokens=12, **OPTIONS
  )
  reward = judge.ByAnswer(answering, prompt=PROMPT)
  found = reward([EXAMPLE], [TEXTS])
  expected = [judge.read(text) for text in answering(QUESTIONS)]
  assert found.reasons_PG[0].tolist() == [v.reason for v in expected]
  assert answering.spent['flops'] > 0
  # Closed and asked again, it is loaded again.
  answering.close()
  assert reward([EXAMPLE], [TEXTS]).reasons_PG.tolist() == (
    found.reasons_PG.tolist()
  )
  answering.close()


def test_reading(model, decoder, params):
  reading = judges.Reading(model=model, rows=2, **OPTIONS)
  reward = judges.by_likelihood(reading, gain=likelihood.probability)
  found = reward([EXAMPLE], [TEXTS])
  contexts = [[1, *f'so {extract.START}'.encode()]]
  read = local_judge.reader(decoder, params)
  (total,) = read(contexts, [list(b'a b.')])
  np.testing.assert_allclose(found.rewards_PG[0], np.exp(total / 4), rtol=1e-5)
  # In whatever company, of whatever length.
  more, rest = [[5], [5, 5, 6], [5] * 20], [[7, 8, 9], [7], [7, 8]]
  together = read(more, rest)
  alone = [read([a], [b])[0] for a, b in zip(more, rest, strict=True)]
  assert together == alone
  assert all(x < 0 for x in together)


def test_they_are_found_in_a_reward(model):
  weighing = judges.Weighing(model=model, **OPTIONS)
  reward = functools.partial(judge.ByProbability(weighing))
  assert weighing in list(settings.parts(reward))
  described = settings.describe(judge.ByProbability(weighing))
  assert described == settings.describe(
    judge.ByProbability(judges.Weighing(model=model, **OPTIONS))
  )
  assert str(described).count(model) == 1


def test_another_models_tokenizer_is_refused(model, monkeypatch):
  small = judges.Reading(model=model, **OPTIONS)
  monkeypatch.setattr(ByteTokenizer, 'vocab_size', 300)
  with pytest.raises(
    ValueError, match='has 259 tokens, that of its tokenizer bytes has 300'
  ):
    small([[1]], [[2]])


class Server(remote.Remote):
  """Answers without a server."""

  def __init__(self, answers):
    super().__init__(remote.Endpoint(url='http://judge:1/v1', model='m'))
    self.answers, self.asked = answers, []

  def ask_now(self, prompts):
    self.asked += prompts
    return self.answers


def of(answers):
  """(a reward with such a judge inside, the judge)."""
  server = Server(answers)
  asked = judge.ByAnswer(server, prompt=PROMPT)
  return combine.Weighted({'judge': (asked, 1.0)}), server


def test_a_judge_is_tried_by_the_question_of_the_run(caplog):
  reward, server = of(['Score: 1', 'Score: 0', '0'])
  judges.try_out(reward)
  cat = 'The cat sat on the mat.'
  assert server.asked[0] == f'R {cat} It was warm. P {cat}'
  assert len(server.asked) == 3 and not caplog.records
  # Rewards without such a judge are not asked at all.
  judges.try_out(judge.ByAnswer(lambda questions: 1 / 0))


def test_a_judge_that_cannot_be_read_is_no_judge(caplog):
  for answers, said in (
    (['Sure!', '', 'Yes.'], "answered 'Sure!', expected 'Score: 0'"),
    (['', '', ''], 'no tokens left'),
  ):
    with pytest.raises(ValueError, match='3 of 3 trial questions') as caught:
      judges.try_out(of(answers)[0])
    assert str(caught.value).startswith('http://judge:1/v1/chat/completions: ')
    assert said in str(caught.value)
  judges.try_out(of(['Score: 1', 'Score: 1', 'Sure!'])[0])
  assert (
    "1 of 3 trial questions got no verdict. The judge answered 'Sure!'"
    in (caplog.text)
  )


def test_a_local_judge_is_looked_at_before_it_is_loaded(model):
  options = {**OPTIONS, 'chat': True}
  weighing = judges.Weighing(model=model, **options)
  with pytest.raises(ValueError, match=r'template.*judges\.Weighing\.chat = F'):
    judges.try_out(judge.ByProbability(weighing))
  answering = judges.Answering(model=f'{model}/nowhere', **OPTIONS)
  with pytest.raises(ValueError, match='nowhere'):
    judges.try_out(judge.ByAnswer(answering))
  # One that only reads has no use for a template.
  reading = judges.Reading(model=model, **options)
  judges.try_out(judges.by_likelihood(reading))
  assert weighing._ask is reading._ask is None


def test_what_remote_judges_counted():
  server = remote.Remote(remote.Endpoint(url='http://localhost:1', model='m'))
  server.counts['requests'] += 3
  reward = judge.ByAnswer(server)
  found = judges.counts(settings.parts(reward))
  assert found['timing/judge/requests'] == 3
  other = remote.Remote(remote.Endpoint(url='http://localhost:2', model='m'))
  other.counts.update({'requests': 2, 'failed/timeout': 1})
  both = combine.Weighted(
    {'one': (reward, 1.0), 'two': (judge.ByAnswer(other), 1.0)}
  )
  assert judges.counts(both) == found | {
    'timing/judge/failed/timeout': 1, 'timing/judge/requests': 5,
  }  # fmt: skip
  server.close()
  other.close()


def test_all_hosts_look_at_a_local_judge_but_one_asks_a_remote_one(
  model, monkeypatch
):
  weighing = judges.Weighing(model=model, **OPTIONS)
  asked, server = of(['Sure!'] * 3)
  reward = combine.Weighted(
    {'local': (judge.ByProbability(weighing), 1.0), 'remote': (asked, 1.0)}
  )
  found = []
  monkeypatch.setattr(weighing, 'check', lambda: found.append('local'))
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(one_host, 'broadcast', found.append)
  judges.try_out(reward)
  assert found == ['local', None] and not server.asked
