"""A local judge against whole passes without a cache, both ways."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.inference import local_judge as lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.rewards import judge
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.sampling.table import Sizes
from tests.serving.toy import ChatTokenizer

CONFIG = zoo.get('tiny_llama')
# With 10 tokens around them: 16, 32 and 48 for the longest, and rows to spare.
PROMPTS = [
  'a',
  'Is it?',
  'Is it true, then?',
  'x' * 20,
  'y' * 33,
  'ab',
  'c' * 34,
]
LONGEST, ROWS = 64, 2


@pytest.fixture(scope='module')
def params(one_device):
  tree = weights.init(
    decoder_lib.specs(CONFIG), jax.random.key(0), layout=one_device
  )
  # A judge that often means a score: its logits for '0' and '1' vary more.
  rows = jnp.ones((CONFIG.vocab_size, 1)).at[jnp.array([48, 49])].set(8.0)
  return {**tree, 'head': tree['head'] * rows}


@pytest.fixture(scope='module')
def decoder(one_device):
  return Decoder(CONFIG, Compute(dtype='float32'), one_device)


@pytest.fixture(scope='module')
def plainly(decoder, params):
  """Log-probabilities of what follows each token: one row, no cache."""

  @jax.jit
  def logprobs(tokens_BT, segments_BT):
    out = decoder_lib.forward(decoder, params, tokens_BT, segments_BT)
    return jax.nn.log_softmax(head.logits(decoder, params, out.hidden_BTD))

  def of(ids):
    tokens, segments = np.zeros((2, 1, 96), np.int32)
    tokens[0, : len(ids)], segments[0, : len(ids)] = ids, 1
    return np.asarray(logprobs(tokens, segments)[0, : len(ids)])

  return of


def _expected(plainly, prompt, answers=lib.ANSWERS):
  """Of each answer whole, less what all have in common."""
  common = len('Score: ') if answers == lib.ANSWERS else 0
  question = [258, *f'{prompt}\n\n'.encode()]
  found = []
  for answer in answers:
    ids = [*question, *answer.encode()]
    rows = plainly(ids)
    start = len(question) + common
    found.append(sum(rows[i - 1, ids[i]] for i in range(start, len(ids))))
  return found


# (b) By probability.


@pytest.mark.slow
def test_probabilities_are_those_of_a_plain_pass(decoder, params, plainly):
  score = lib.scorer(
    decoder, params, ByteTokenizer(), chat=False, rows=ROWS,
    max_prompt_tokens=LONGEST,
  )  # fmt: skip
  expected = [_expected(plainly, prompt) for prompt in PROMPTS]
  np.testing.assert_allclose(score(PROMPTS), expected, atol=1e-5)
  # The two scores are not alike by accident.
  assert np.ptp(np.diff(expected, axis=1)) > 0.5
  assert score([]) == []


def test_answers_of_several_tokens(decoder, params, plainly):
  answers = ('no', 'yes!', 'maybe')
  score = lib.scorer(
    decoder, params, ByteTokenizer(), chat=False, rows=ROWS, answers=answers
  )
  prompts = PROMPTS[:2]
  expected = [_expected(plainly, prompt, answers) for prompt in prompts]
  np.testing.assert_allclose(score(prompts), expected, atol=2e-5)


def test_a_score_does_not_depend_on_its_company(decoder, params):
  score = lib.scorer(decoder, params, ByteTokenizer(), chat=False, rows=ROWS)
  together = score(PROMPTS)
  assert [score([prompt])[0] for prompt in PROMPTS] == together
  assert score(PROMPTS[::-1]) == together[::-1]


def test_a_mesh_of_its_own(decoder, params):
  layout = make_layout(fsdp=2, tensor=2, devices=jax.devices()[4:])
  elsewhere = Decoder(CONFIG, Compute(dtype='float32'), layout)
  shardings = weights.shardings(decoder_lib.specs(CONFIG), layout=layout)
  spread = jax.device_put(jax.device_get(params), shardings)
  found = [
    lib.scorer(*model, ByteTokenizer(), chat=False, rows=4)(PROMPTS[:2])
    for model in ((decoder, params), (elsewhere, spread))
  ]
  np.testing.assert_allclose(*found, atol=1e-5)


def test_a_question_that_is_too_long_has_no_verdict(decoder, params, caplog):
  score = lib.scorer(
    decoder,
    params,
    ByteTokenizer(),
    chat=False,
    rows=ROWS,
    max_prompt_tokens=16,
  )
  # 1 + 4 + 2 + 7 = 14 tokens, and 17.
  found = score(['abcd', 'abcdefg'])
  assert not math.isnan(found[0][0])
  assert np.isnan(found[1]).all()
  assert judge.weigh(*found[1]).reason == 'judge/failed'
  assert '1 of 2 questions' in caplog.text
  assert 'max_prompt_tokens=16' in caplog.text


def test_a_judge_whose_weights_are_broken(decoder, params):
  broken = params | {'norm': params['norm'].at[3].set(jnp.nan)}
  score = lib.scorer(decoder, broken, ByteTokenizer(), chat=False, rows=ROWS)
  message = 'the judge, reading 2 texts: NaN log-probability'
  with pytest.raises(FloatingPointError, match=message):
    score(['a', 'b'])
  with pytest.raises(FloatingPointError, match=message):
    lib.reader(decoder, broken, rows=ROWS)([[1, 2]] * 2, [[3]] * 2)


def test_a_text_that_is_too_much_has_no_verdict(decoder, params, monkeypatch):
  """Where others have one, the weights are not broken."""
  monkeypatch.setattr(
    lib, 'choice_logprobs',
    lambda *_: np.array([[-1, math.nan], [-2, -3]], np.float32),
  )  # fmt: skip
  score = lib.scorer(decoder, params, ByteTokenizer(), chat=False, rows=ROWS)
  found = score(['a', 'b'])
  assert judge.weigh(*found[0]).reason == 'judge/failed'
  assert found[1] == (-2, -3)


# Tokens.


class Fused(ByteTokenizer):
  """Has tokens for ' 0' and ' 1', and one across
  where an answer begins, as BPE often does."""

  def encode(self, text):
    ids = []
    while text:
      for piece, i in (('\nScore', 300), (' 0', 301), (' 1', 302)):
        if text.startswith(piece):
          ids.append(i)
          text = text[len(piece) :]
          break
      else:
        ids.append(ord(text[0]))
        text = text[1:]
    return ids


def test_an_answer_is_cut_where_the_tokens_differ():
  context, choices = lib.split(Fused(), 'Hm', chat=False)
  assert context == [258, *b'Hm\n', 300, ord(':')]
  assert choices == [[301], [302]]
  context, choices = lib.split(ByteTokenizer(), 'Hm', chat=False)
  assert context == [258, *b'Hm\n\nScore: ']
  assert choices == [[48], [49]]


def test_an_answer_follows_the_chat_template():
  context, choices = lib.split(ChatTokenizer(), 'Hm', chat=True)
  assert context == [*b'user:Hm|Score: ']
  assert choices == [[48], [49]]
  assert lib.question(ChatTokenizer(), 'Hm', chat=True) == [*b'user:Hm|']
  assert lib.question(ByteTokenizer(), 'Hm', chat=False) == [258, *b'Hm\n\n']


def test_every_question_has_its_own_answers():
  asked = [([1, 2], [[3], [4, 5]]), ([6], [[7, 8], [9]])]
  prompts, mask, choices, choice_mask = lib._padded(asked, 3, 2, 2)
  assert prompts.tolist() == [[1, 2], [6, 0], [0, 0]]
  assert mask.tolist() == [[1, 1], [1, 0], [1, 0]]
  assert choices.tolist() == [[3, 0], [4, 5], [7, 8], [9, 0], [0, 0], [0, 0]]
  assert choice_mask.sum(1).tolist() == [1, 2, 2, 1, 0, 0]


@pytest.mark.parametrize('answers', [('a', 'ab'), ('a', 'a')])
def test_answers_that_begin_alike_are_refused(answers):
  with pytest.raises(ValueError, match='one is a prefix of another'):
    lib.split(ByteTokenizer(), 'Hm', chat=False, answers=answers)


# (a) By what it says.


def _greedy(plainly, prompt: str, steps: int) -> list[int]:
  ids = [258, *f'{prompt}\n\n'.encode()]
  start = len(ids)
  while len(ids) < start + steps:
    ids.append(int(plainly(ids)[-1].argmax()))
    if ids[-1] == 256:
      break
  return ids[start:]


@pytest.fixture(scope='module')
def engine(decoder, params):
  plan = Plan(
    slots=3, group=1, max_prompt_tokens=37, max_new_tokens=12,
    sizes=Sizes(stops=1),
  )  # fmt: skip
  with Sampler(Engine(decoder, params, plan)) as opened:
    yield opened


@pytest.mark.slow
def test_what_it_says_is_the_most_probable(engine, plainly, caplog):
  complete = lib.completer(engine, ByteTokenizer(), chat=False)
  found = complete(PROMPTS)
  expected = [
    ByteTokenizer().decode(_greedy(plainly, prompt, 12))
    for prompt in PROMPTS[:-1]
  ]
  assert found[:-1] == expected
  assert len(set(expected)) > 3
  # 1 + 34 + 2 = 37 tokens fit, and one more does not.
  assert found[-1] is not None and not caplog.records
  assert complete([PROMPTS[0], 'c' * 35, PROMPTS[1]]) == [
    expected[0], None, expected[1]
  ]  # fmt: skip
  assert '1 of 3 questions' in caplog.text
  assert complete([]) == []


def test_what_an_engine_is_asked(engine, monkeypatch):
  asked = []
  monkeypatch.setattr(
    engine, 'run', lambda requests: asked.extend(requests) or []
  )
  with pytest.raises(ValueError):  # Fewer answers than questions.
    lib.completer(engine, ByteTokenizer(), chat=False)(['a'])
  [request] = asked
  assert request.temperature == 0
  assert request.stops == ((256,),)
  assert request.max_new_tokens == 12
