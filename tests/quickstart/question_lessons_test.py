"""Questions about documents of the small world: what is true, what is shown."""

import collections
import itertools
import json
import pathlib
import random

import pytest

from rlpt_jax import cli
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.corpus import question_prompts as to
from rlpt_jax.data import records
from rlpt_jax.data.sources import Document
from rlpt_jax.llm import json_replies
from rlpt_jax.quickstart import lessons, world
from rlpt_jax.quickstart import question_lessons as lib
from rlpt_jax.quickstart.wordings import is_true_prefix, sentences
from rlpt_jax.quickstart.world import Dials
from rlpt_jax.rewards import extract
from tests.corpus import corpora
from tests.llm import scripted_models

ROOT = pathlib.Path(__file__).parents[2]
BYTES = ByteTokenizer()
AMOUNTS = (
  'Mara has 9 shells, finds 4, loses 2 and wins 3. A dog barked. She has 14 '
  'shells in all. Then she loses 2. So 12 shells are what Mara has. That was '
  'all.'
)
MARA = 'Mara has 9 shells, finds 4, loses 2 and wins 3.'
DAYS = (
  'The pool is open every 3 days and was open on Monday. So the pool is open '
  'again on Thursday. The next day of the pool is Sunday. That was all.'
)
POOL = 'The pool is open every 3 days and was open on Monday.'
BOXES = (
  'Red boxes hold nuts, blue boxes hold tea, green boxes hold salt, and Ann '
  'has a red box. Ann has a box with nuts. Tom has a blue box. Tom has a box '
  'with tea. That was all.'
)
RED = (
  'Red boxes hold nuts, blue boxes hold tea, green boxes hold salt, and Ann '
  'has a red box.'
)


def some(count, **options):
  documents = itertools.islice(world.documents(5, **options), count)
  return list(documents), random.Random(0)


@pytest.mark.parametrize('flaw', lib.FLAWS)
def test_each_flaw_is_found(flaw):
  documents, rng = some(200, dials=Dials(whims=1))
  for document in documents:
    # A document's sentences are those that it is split into.
    assert tuple(sentences(document.text)) == document.sentences
    for target in document.targets:
      asked, answered = lib.flawed(document, target, flaw, rng)
      assert lib.fault(document.text, asked, answered) == flaw


@pytest.mark.parametrize(
  ('text', 'asked', 'answered', 'expected'),
  [
    (AMOUNTS, f'{MARA} How many shells has Mara?', 'She has 14 shells in all.',
     None),
    # What happened since decides what is asked for.
    (AMOUNTS, f'{MARA} Then she loses 2. How many shells has Mara?',
     '12 shells are what Mara has.', None),
    (AMOUNTS, f'{MARA} Then she loses 2. How many shells has Mara?',
     'Mara has 14 shells in all.', lib.WRONG),
    # An earlier conclusion is background enough; an event alone is not.
    (AMOUNTS, 'Mara has 14 shells in all. Then she loses 2. How many shells '
     'has Mara?', 'Mara has 12 shells in all.', None),
    (AMOUNTS, 'Then she loses 2. How many shells has Mara?',
     'Mara has 12 shells in all.', lib.CONTEXT_MISSING),
    (AMOUNTS, f'{MARA} Mara has 14 shells in all. How many shells has Mara?',
     'Mara has 14 shells in all.', lib.GIVEN_AWAY),
    (AMOUNTS, f'{MARA} How many shells has Mara?', 'Tom has 14 shells in all.',
     lib.WRONG),
    (AMOUNTS, f'{MARA} How many shells has Mara?', '14', lib.WRONG),
    (AMOUNTS, f'{MARA} How many shells has Tom?', 'Tom has 14 shells in all.',
     lib.NO_QUESTION),
    (AMOUNTS, f'{MARA} Why?', 'Mara has 14 shells in all.', lib.NO_QUESTION),
    (AMOUNTS, '', '', lib.NO_QUESTION),
    (AMOUNTS, f'{MARA.replace("9", "8")} How many shells has Mara?',
     'Mara has 14 shells in all.', lib.ALTERED),
    # The first sentence may be in any of its wordings.
    (AMOUNTS, 'In the morning Mara has 9 shells, and then Mara finds 4, loses '
     '2 and wins 3. How many shells has Mara?', 'Mara has 14 shells in all.',
     None),
    (AMOUNTS, 'Mara has 9 shells, finds 2, loses 4 and wins 3. How many shells '
     'has Mara?', 'Mara has 14 shells in all.', lib.ALTERED),
    (DAYS, f'{POOL} When is the pool open again?',
     'The pool opens its doors on Thursday.', None),
    (DAYS, 'On Monday the pool was open, and it opens once in 3 days. When is '
     'the pool open again?', 'The pool is open again on Thursday.', None),
    (DAYS, f'{POOL} When is the pool open the second time?',
     'The pool is open again on Sunday.', None),
    (DAYS, f'{POOL} When is the pool open the second time?',
     'The pool is open again on Thursday.', lib.WRONG),
    (BOXES, f'{RED} What has Ann in the box?', 'Ann has a box with nuts.',
     None),
    (BOXES, f'{RED} What has Tom in the box?', 'Tom has a box with tea.',
     lib.CONTEXT_MISSING),
    (BOXES, f"{RED} Tom's box is blue. What has Tom in the box?",
     'Tom has a box with tea.', None),
  ],
)  # fmt: skip
def test_what_is_true_of_a_question(text, asked, answered, expected):
  assert lib.fault(text, asked, answered) == expected


def test_all_wordings_of_a_first_sentence_mean_the_same():
  rng = random.Random(0)
  for _ in range(200):
    story = rng.choice([*world.KINDS.values()])(rng, 2)
    assert len({*map(lib._meaning, story.setup)}) == 1


def test_replies_are_those_that_the_pipeline_reads():
  documents, rng = some(400)
  fields = {
    'Is it fit?': to.FILTERED, 'Who asks?': to.IDENTIFIED,
    'ask?': to.GENERATED, 'Is it right?': to.CHECKED,
  }  # fmt: skip
  seen = collections.Counter()
  for document in documents:
    line = lib.reply(document, rng)
    end, expected = next(
      (end, expected)
      for end, expected in fields.items()
      if line['prompt'].endswith(f'{end}\n\n')
    )
    said = json_replies.parse(line['response'], expected, notes=to.NOTES)
    assert isinstance(said, dict), said
    seen[end] += 1
    text = document_in(line['prompt'])
    if end == 'Is it fit?':
      assert said['qualified'] == (text == document.text)
      seen[end, said['qualified']] += 1
    elif end == 'Who asks?':
      assert said['domain'] == lib.DOMAINS[document.kind]
      assert said['personas'] == [*lib.PERSONAS]
    elif end == 'ask?':
      assert said['thought'] in document.sentences
      assert not lib.fault(text, said['question'], said['answer'])
      late = lib.PERSONAS[1] in line['prompt']
      target = document.targets[late]
      assert is_true_prefix(said['answer'], document.sentences[target])
    else:
      seen[said['has_context'], said['answer_correctness'],
           said['info_leakage']] += 1  # fmt: skip
      _, asked, answered, _, _ = line['prompt'].rsplit('\n\n', 4)
      passed = said['has_context'] and said['answer_correctness']
      passed = passed and not said['info_leakage']
      assert passed == (lib.fault(text, asked, answered) is None)
  assert set(lib.STAGES) == {'filter', 'identify', 'generate', 'check'}
  assert min(seen.values()) > 5 and len(seen) == 4 + 2 + 4


def document_in(prompt: str) -> str:
  return prompt.partition('\n\n')[0]


def test_a_stray_lacks_its_beginning_or_its_conclusions():
  documents, rng = some(50)
  lacks = collections.Counter()
  for document in documents:
    text = lib.stray(document, rng)
    first = text.startswith(document.sentences[0])
    conclusions = sum(document.sentences[i] in text for i in document.targets)
    lacks[first, conclusions] += 1
  assert set(lacks) == {(True, 0), (False, 2)}
  texts = [lib.to_ask_about(document, rng)['text'] for document in documents]
  strays = sum(
    text != document.text
    for text, document in zip(texts, documents, strict=True)
  )
  assert 0 < strays < 25


def test_right_questions_ask_for_each_conclusion():
  documents, rng = some(50)
  for document in documents:
    found = lib.right(document.text, rng)
    for one, i in zip(found, document.targets, strict=True):
      assert lib.fault(document.text, one['text'], one['answer']) is None
      assert is_true_prefix(one['answer'], document.sentences[i])
    assert lib.right(lib.stray(document, rng), rng) == []


def test_responses_are_guessed_or_worked_out_from_the_question():
  documents, rng = some(600)
  right = collections.defaultdict(list)
  for document in documents:
    line = lib.response(document, rng)
    asked = line['prompt'].removesuffix('\n\n')
    answered = extract.prediction(line['response']).text
    right[line['manner']].append(
      lib.fault(document.text, asked, answered) is None
    )
    if line['manner'] == 'work' and document.kind in ('amounts', 'boxes'):
      # All sums that lead to the last amount, since no earlier one is quoted.
      # What one box holds does not lead to what another holds.
      thoughts = [document.steps[i].thought for i in document.targets]
      count = sum(thought in line['response'] for thought in thoughts)
      assert count == (asked.count('.') if document.kind == 'amounts' else 1)
  assert all(right['work'])
  wrong = 1 - sum(right['guess']) / len(right['guess'])
  assert abs(wrong - lessons.MISTAKEN) < 0.06


def test_clean_responses_are_all_worked_out(tmp_path):
  lib.write(tmp_path, clean_responses=60)
  lines = (tmp_path / 'clean_responses.jsonl').read_text().splitlines()
  assert {json.loads(line)['manner'] for line in lines} == {'work'}


def test_files_follow_from_the_seed(tmp_path):
  counts = {'replies': 5, 'responses': 6, 'documents': 7, 'asked': 8}
  for name in 'ab':
    lib.write(tmp_path / name, seed=1, **counts)
  for name, count in counts.items():
    text = (tmp_path / 'a' / f'{name}.jsonl').read_text()
    assert text == (tmp_path / 'b' / f'{name}.jsonl').read_text()
    assert len(text.splitlines()) == count
  # The last ones are held out.
  documents = world.documents(1000 + lib.FIRST + 3, held_out=True)
  for line, document in zip(text.splitlines(), documents, strict=False):
    asked = json.loads(line)
    assert asked['prompt'].startswith(document.sentences[0])
    question = asked['prompt'].strip()
    assert not lib.fault(document.text, question, asked['references'][0])


def test_a_question_that_was_made_is_asked_as_in_the_cold_start():
  task, tally = lib.Question(), records.Tally(None)
  stage = task.stage(BYTES, 'text', None, 1)
  fields = {'text': 'How many?', 'answer': 'Mara has 9 shells in all.'}
  record = stage.record(Document('d', 'here', fields), tally)
  example = task.example(record, 'made', 0, BYTES)
  assert BYTES.decode(example.prompt_tokens.tolist()) == 'How many?\n\n'
  assert example.references == (fields['answer'],)


def test_documents_become_questions(tmp_path, monkeypatch, capsys):
  """The command, with a model that knows all, but once answers wrong."""
  documents, rng = some(9)
  known = {document.text: document for document in documents[1:]}
  mistaken = documents[1].text

  def say(body) -> str:
    prompt = scripted_models.text_of(body)
    text = document_in(prompt)
    document = known.get(text)
    if prompt.endswith('fit?\n\n'):
      return json.dumps({'qualified': 'Y' if document else 'N'})
    if prompt.endswith('Who asks?\n\n'):
      return lib._identify(document, rng)['response']
    if prompt.endswith('ask?\n\n'):
      flaw = lib.WRONG if text == mistaken else None
      target = document.targets[lib.PERSONAS[1] in prompt]
      asked, answered = lib.flawed(document, target, flaw, rng)
      return json.dumps({'question': asked, 'answer': answered})
    _, asked, answered, _, _ = prompt.rsplit('\n\n', 4)
    right = 'N' if lib.fault(text, asked, answered) else 'Y'
    return json.dumps(
      {'has_context': 'Y', 'answer_correctness': right, 'info_leakage': 'N'}
    )

  texts = [lib.stray(documents[0], rng), *known]
  corpora.write(tmp_path / 'world' / 'documents.jsonl', texts)
  monkeypatch.chdir(tmp_path)
  with scripted_models.running(say) as models:
    arguments = [
      'make_questions', str(ROOT / 'experiments' / 'small' / 'questions.gin'),
      f"remote.Endpoint.url='{models.url}'", 'remote.Endpoint.chat=True',
    ]  # fmt: skip
    assert cli.main(arguments) == 0
  text = ' '.join(capsys.readouterr().out.split())
  assert '1 dropped, document not qualified' in text
  assert '2 dropped, checker: wrong answer' in text
  found = corpora.documents(tmp_path / 'questions')
  assert len(found) == 14
  for one in found:
    assert not lib.fault(one['material'], one['text'], one['answer'])
