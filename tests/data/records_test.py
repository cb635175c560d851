"""Records hold the whole document, and say what was left out and why."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.data import records, segment
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.readers import Document
from tests.data.conftest import text_of

TEXT = (
  'Homes were cold then. Why not? People burned peat for heat, mostly.\n\n'
  'Coal came by rail in 1850. It was dear at first. The end.'
)


@pytest.fixture
def tally():
  return records.Tally(Faults())


def document(**fields):
  return Document('file@7', 'file line 3', fields)


def text_stage(tokenizer, **options):
  return records.Text(tokenizer, segment.sentences, **options)


def test_segments_their_tokens_and_targets(bpe, tally):
  stage = text_stage(bpe)
  record = stage.record(document(text=TEXT), tally)
  ends = [0, *record['ends']]
  pieces = [TEXT[a:b] for a, b in itertools.pairwise(ends)]
  assert [piece.strip() for piece in pieces] == [
    'Homes were cold then.',
    'Why not?',
    'People burned peat for heat, mostly.',
    'Coal came by rail in 1850.',
    'It was dear at first.',
    'The end.',
  ]
  # Two words are no target; the first and the last are none in any case.
  assert record['targets'].tolist() == [2, 3, 4]
  assert tally.left_out == {
    'segments that begin or end a document': 2,
    'segments of fewer than 4 words': 1,
  }
  assert stage.sizes(record) == (3, len(record['tokens']))
  # 'It was dear at first.' has five words.
  for min_words, targets in ((5, [2, 3, 4]), (6, [2, 3])):
    stage = text_stage(bpe, min_words=min_words)
    record = stage.record(document(text=TEXT), records.Tally(Faults()))
    assert record['targets'].tolist() == targets
  token_ends = [0, *record['token_ends']]
  bounds = itertools.pairwise(token_ends)
  for piece, (a, b) in zip(pieces, bounds, strict=True):
    assert bpe.decode(record['tokens'][a:b]) == piece
  assert tally.lengths['segments of a document'] == {6: 1}


@pytest.mark.parametrize('number', range(1, 15))
def test_tokens_of_segments_are_those_of_the_text(bpe, tally, number):
  # Since a segment begins with the blank before its first word.
  text = text_of(number) + '\n\n' + TEXT
  record = text_stage(bpe).record(document(text=text), tally)
  assert record['tokens'].tolist() == bpe.encode(text)


def test_a_tokenizer_that_begins_texts_with_a_blank(tally):
  class Prefixing(ByteTokenizer):
    def encode(self, text):
      return super().encode(' ' + text)

  record = text_stage(Prefixing()).record(document(text=TEXT), tally)
  assert ByteTokenizer().decode(record['tokens']).count('  ') == 0


@hypothesis.given(st.text(max_size=200))
def test_any_text_comes_back(text):
  tally = records.Tally(Faults())
  record = text_stage(ByteTokenizer()).record(document(text=text), tally)
  if record is None:
    assert sum(tally.faults.counts.values()) == 1
  else:
    assert record['text'] == text
    assert ByteTokenizer().decode(record['tokens']) == text


def test_a_text_of_several_fields(bpe, tally):
  stage = text_stage(bpe, field=('question', 'answer'))
  asked = document(question='Who came?', answer='He came.\nThe dog too.')
  record = stage.record(asked, tally)
  assert record['text'] == 'Who came?\nHe came.\nThe dog too.'
  assert record['ends'].tolist() == [10, 19, 31]
  assert stage.record(document(question='Who came?'), tally) is None
  assert tally.faults.counts == {"no field 'answer'": 1}


def test_two_segments_have_no_target_but_are_text(tally):
  stage = text_stage(ByteTokenizer())
  record = stage.record(document(text='One is here. Two is there.'), tally)
  assert record['targets'].tolist() == []
  assert tally.left_out['documents with fewer than three segments'] == 1


def test_documents_in_and_records_out(tally):
  documents = [document(text=TEXT), document(text=' '), document(body=TEXT)]
  stage = text_stage(ByteTokenizer())
  made = list(records.records(documents, stage, tally))
  assert [record is not None for record in made] == [True, False, False]
  assert (tally.documents, tally.records) == (3, 1)
  assert tally.faults.counts == {"empty field 'text'": 1, "no field 'text'": 1}


MESSAGES = [
  {'role': 'user', 'content': 'Two and two?'},
  {'role': 'assistant', 'content': 'Four.'},
  {'role': 'user', 'content': 'And one?'},
  {'role': 'assistant', 'content': 'Five.'},
]


def loss_texts(record, tokenizer):
  """The runs of tokens that are trained on."""
  cuts = np.flatnonzero(np.diff(record['loss'], prepend=0, append=0))
  return [
    tokenizer.decode(record['tokens'][a:b], keep_special=True)
    for a, b in cuts.reshape(-1, 2)
  ]


def test_the_loss_is_on_what_the_assistant_says(bpe, tally):
  record = records.Chat(bpe).record(document(messages=MESSAGES), tally)
  assert record['tokens'].tolist() == bpe.encode_chat(
    MESSAGES, add_generation_prompt=False
  )
  # The end of the turn belongs to it: that is how one learns to stop.
  assert loss_texts(record, bpe) == ['Four.<|im_end|>\n', 'Five.<|im_end|>\n']


def test_a_template_that_tidies_up_trains_on_the_last_answer(bpe, tally):
  class Tidy(ByteTokenizer):
    def encode_chat(self, messages, *, add_generation_prompt=True, **_):
      kept = [
        m['content'] if i == len(messages) - 1 or m['role'] == 'user' else '-'
        for i, m in enumerate(messages)
      ]
      return self.encode('|'.join(kept) + '|')

  record = records.Chat(Tidy()).record(document(messages=MESSAGES), tally)
  assert loss_texts(record, Tidy()) == ['Five.|']


@pytest.mark.parametrize(
  ('messages', 'fault'),
  [
    ('hi', 'not a list of messages'),
    ([], 'not a list of messages'),
    ([{'role': 'user'}], "a message is not {'role': ..., 'content': ...}"),
    (MESSAGES[:1], 'no assistant message'),
    (
      [*MESSAGES, {'role': 'user', 'content': None}],
      "a message's role or content is not text",
    ),
    (
      [*MESSAGES, {'role': 'user', 'content': 'a\0'}],
      "a message's role or content is not text",
    ),
  ],
)
def test_no_conversation(bpe, tally, messages, fault):
  assert records.Chat(bpe).record(document(messages=messages), tally) is None
  assert tally.faults.first == {f'messages: {fault}': ['file line 3']}


def test_what_a_chat_template_refuses_is_a_fault(tally):
  class Picky(ByteTokenizer):
    def encode_chat(self, messages, **_):
      if not messages or messages[0]['role'] == 'system':
        raise RuntimeError('no system here\nat all')
      return self.encode('|'.join(m['content'] for m in messages) + '|')

  stage = records.Chat(Picky())
  system = {'role': 'system', 'content': 'Be kind.'}
  assert stage.record(document(messages=[system, *MESSAGES]), tally) is None
  assert tally.faults.first == {
    'the chat template rejects it': ['file line 3 (no system here)']
  }
  assert stage.record(document(messages=MESSAGES), tally) is not None
  # But where there is none at all, no conversation will do.
  with pytest.raises(ValueError, match='has no chat template'):
    records.Chat(ByteTokenizer()).record(document(messages=MESSAGES), tally)


def test_prompt_and_response_with_and_without_a_template(bpe, tally):
  asked = document(prompt='Two and two?', response='Four.')
  record = records.Chat(bpe).record(asked, tally)
  assert bpe.decode(record['tokens'], keep_special=True) == (
    'Two and two?Four.<|im_end|>'
  )
  assert loss_texts(record, bpe) == ['Four.<|im_end|>']
  record = records.Chat(bpe, chat=True).record(asked, tally)
  assert loss_texts(record, bpe) == ['Four.<|im_end|>\n']
  assert record['tokens'].tolist() == bpe.encode_chat(
    MESSAGES[:2], add_generation_prompt=False
  )
  assert records.Chat(bpe).record(document(prompt='Two?'), tally) is None
  assert tally.faults.counts == {"no field 'response'": 1}


def test_a_question_and_the_answer_after_its_mark(bpe, tally):
  stage = records.Question(bpe, answer_mark='####')
  asked = document(question=' How many? ', answer='3 + 4 = 7\n#### 7')
  record = stage.record(asked, tally)
  assert record['answer'] == '7'
  assert bpe.decode(record['tokens']) == 'How many?'
  assert stage.sizes(record) == (len(record['tokens']),)
  asked = document(question='How many?', answer='Seven.')
  assert stage.record(asked, tally) is None
  assert tally.faults.counts == {"no '####' answer": 1}
