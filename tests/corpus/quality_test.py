import pickle
import subprocess
import sys

import pytest

from rlpt_jax.core import settings
from rlpt_jax.corpus import quality
from rlpt_jax.corpus.documents import Document, Dropped, InBatches
from rlpt_jax.corpus.quality import ByModel, Server, read
from rlpt_jax.llm.remote import Endpoint, Patience
from tests.rewards import judges

DOCUMENTS = [
  Document('a', 'Water boils at 100 degrees.', {'url': 'x'}),
  Document('b', 'Buy now!'),
  Document('c', 'Water boils at 100 degrees.'),
]


def _rated(prompt, _=1):
  return ('say', f'Reasons.\nScore: {1 if "Buy now" in prompt else 4}')


class Fixed:
  """Gives the same answer to all questions, and remembers them."""

  def __init__(self, answer: str | None):
    self.answer, self.asked = answer, []

  def __call__(self, prompts):
    self.asked += prompts
    return [self.answer for _ in prompts]


@pytest.mark.parametrize(
  ('answer', 'score'),
  [
    ('Good text.\nScore: 4', 4),
    ('It has facts, so the score is 3.\n\n**Score:** 3', 3),
    ('Score: 0\n', 0),
    ('Reasons.\n> *Score = 5/5*.', 5),
    ('A score of 2 out of 5 is fair.\nScore: 2 out of 5', 2),
    ('<think>Score: 1? Score: 2?</think>\nScore: 3', 3),
    ('3', 3),
    (' **5/5** ', 5),
    ('score: "4"', 4),
    ('I score it highly.\nScore: 4', 4),
    (None, None),
    ('', None),
    ('Score: 6', None),
    ('Score: 10', None),
    ('Score: 3.5', None),
    ('Score: 3,5', None),
    ('Score: -1', None),
    ('Score: 3-4', None),
    ('Score: 3 or 4', None),
    ('Score: 4/10', None),
    ('Score: 3/50', None),
    ('4/10', None),
    ('-3', None),
    ('I would give it a 3.', None),
    ('It deserves Score: 3', None),
    ('Score: 2\nScore: 3', None),
    ('Score: 3\nOn second thought, a score of 4.', None),
    ('Score: 3\nOr rather score 3.5', None),
    ('<think>It is good. Score: 4', None),
    ('<think>a</think><think>\nScore: 4', None),
    ('The text explains how water', None),
    ('Score: three', None),
  ],
)
def test_only_a_clear_score_is_a_verdict(answer, score):
  assert read(answer) == score


def test_documents_below_the_threshold_are_dropped():
  asked = []

  def complete(prompts):
    asked.extend(prompts)
    return [_rated(prompt)[1] for prompt in prompts]

  stage = InBatches(ByModel(complete))
  a, b, c = stage.judge(DOCUMENTS)
  assert a.fields == {'url': 'x', 'quality_score': 4}
  assert (a.id, a.text, a.edits) == ('a', DOCUMENTS[0].text, ())
  assert b == Dropped('quality: score below 3', "'Reasons. Score: 1'")
  assert c.fields == {'quality_score': 4}
  assert len(asked) == 2  # Equal questions once.
  assert isinstance(ByModel(complete, threshold=1)(DOCUMENTS)[1], Document)
  assert isinstance(ByModel(complete, threshold=5)(DOCUMENTS)[0], Dropped)
  assert stage(DOCUMENTS[1]) == b


def test_a_document_without_a_verdict():
  document = Document('a', 'Water.')
  assert ByModel(Fixed(None))([document]) == [Dropped('quality: no answer')]
  assert ByModel(Fixed('It is\ngood.'))([document]) == [
    Dropped('quality: unclear answer', "'It is good.'")
  ]
  (kept,) = ByModel(Fixed(None), unjudged='keep')([document])
  assert kept.fields == {'quality_score': None}
  # Dropped for its score, however.
  (found,) = ByModel(Fixed('1'), unjudged='keep')([document])
  assert found.reason == 'quality: score below 3'


def test_what_the_model_is_shown():
  model = Fixed('4')
  judge = ByModel(model, max_characters=12)
  texts = 'a {text} {cut}', ' \n ', 'one two three'
  outcomes = judge([Document('a', text) for text in texts])
  assert outcomes[1] == Dropped('quality: no text')
  first, second = model.asked
  assert '\n==========\na {text} {cu [...]\n==========\n' in first
  assert '\n==========\none two thre [...]\n==========\n' in second
  assert 'A text that ends in [...] was' in second
  assert '\n1234\n' in ByModel(model).question('\n1234 ')
  assert ByModel(model, prompt='Rate {text}').question('it') == 'Rate it'


def test_wrong_settings():
  with pytest.raises(ValueError, match=r'threshold=6: .* from 0 to 5'):
    ByModel(Fixed(None), threshold=6)
  with pytest.raises(ValueError, match=r'prompt: expected \{text\} in it'):
    ByModel(Fixed(None), prompt='Rate it.')
  with pytest.raises(ValueError, match='0 answers to 1 questions'):
    ByModel(lambda prompts: [])([DOCUMENTS[0]])


def test_a_model_is_tried_out_before_the_run():
  ByModel(Fixed('Score: 0')).try_out()
  with pytest.raises(ValueError, match=r"no score: 'The text is'\. Expected"):
    ByModel(Fixed('The text is')).try_out()
  with pytest.raises(ValueError, match=r'no score: None\. Expected'):
    ByModel(Fixed(None)).try_out()


def test_the_cost_is_that_of_the_prompts():
  model = Fixed('4')
  judge = ByModel(model, max_characters=20)
  texts = ['x' * length for length in (0, 10, 20, 30)]
  judge([Document(str(i), text) for i, text in enumerate(texts)])
  found = quality.cost(
    judge, map(len, texts), characters_per_token=2.0, answer_tokens=50,
    prompt_price=1.0, answer_price=2.0,
  )  # fmt: skip
  assert found.questions == len(model.asked) == 3
  assert found.prompt_tokens == round(sum(map(len, model.asked)) / 2)
  assert found.answer_tokens == 150
  assert found.price == pytest.approx((found.prompt_tokens + 2 * 150) / 1e6)
  assert str(quality.Cost(1000, 2_000_000, 3, 4.5)) == (
    '1,000 questions, 2,000,000 tokens of prompts, 3 tokens of answers: 4.50'
  )
  assert quality.measure(['one two', 'a'], str.split) == 8 / 3
  with pytest.raises(ValueError, match='no tokens'):
    quality.measure([], str.split)


def _server(judge, cache, **fields) -> Server:
  endpoint = Endpoint(url=judge.url, model='m', fields={'max_tokens': 9})
  patience = Patience(timeout=5.0, attempts=2, first_delay=0.01)
  return Server(endpoint, patience, cache=cache)


def test_a_second_run_in_another_process_asks_nothing_twice(tmp_path):
  with judges.running(_rated) as model:
    server = _server(model, tmp_path / 'cache' / 'answers.jsonl')
    stage = InBatches(ByModel(server))
    first = stage.judge(DOCUMENTS)
    assert sum(model.tries.values()) == 2
    assert pickle.loads(pickle.dumps(server)).remote is server.remote
    server.close()
    more = [*DOCUMENTS, Document('d', 'Buy now, or tomorrow.')]
    code = (
      'import pickle, sys\n'
      'stage, documents = pickle.load(sys.stdin.buffer)\n'
      'sys.stdout.buffer.write(pickle.dumps(stage.judge(documents)))'
    )
    done = subprocess.run(
      [sys.executable, '-c', code], input=pickle.dumps((stage, more)),
      stdout=subprocess.PIPE, check=True, timeout=60,
    )  # fmt: skip
    assert pickle.loads(done.stdout)[:3] == first
    assert sum(model.tries.values()) == 3
    # Closed before, it opens again.
    assert stage.judge(DOCUMENTS) == first
    assert sum(model.tries.values()) == 3
    stage.judge.try_out()
    stage.judge.try_out()  # Bypasses the cache.
    assert sum(model.tries.values()) == 7
    server.close()


def test_a_question_that_the_server_refuses_has_no_answer(tmp_path):
  def act(prompt, tries):
    return ('status', 400) if 'Buy' in prompt else _rated(prompt)

  with judges.running(act) as model:
    server = _server(model, None)
    outcomes = ByModel(server)(DOCUMENTS)
    server.close()
  assert outcomes[1] == Dropped('quality: no answer')
  assert outcomes[0].fields['quality_score'] == 4


def test_settings_are_those_that_answers_depend_on(tmp_path):
  endpoints = [Endpoint(url=f'http://{x}/v1', model='m') for x in 'ab']
  a, b = [Server(x, cache=tmp_path / x.url[-4]) for x in endpoints]
  assert settings.describe(a) == settings.describe(b)
  other = Server(Endpoint(url='http://a/v1', model='other'))
  assert settings.describe(a) != settings.describe(other)
  described = settings.describe(InBatches(ByModel(a, threshold=2)))
  assert described['judge']['threshold'] == 2
  assert described['judge']['complete']['model'] == 'm'
