"""Prompts hold the context that they should and never what they ask for."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.data import prompts, records, tasks
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.readers import Document

BYTES = ByteTokenizer()
ASR = tasks.Asr(max_prompt_tokens=len(prompts.ASR) + 100)
MSR = tasks.Msr(max_prompt_tokens=len(prompts.MSR) + 100)

# Segments of which none is part of another: numbered words, then white space
# as it may stand between sentences.
words = st.integers(3, 12).map(lambda n: ['word'] * n)
gaps = st.sampled_from([' ', '\n', '\n\n', '  ', '\n \t'])


@st.composite
def documents(draw):
  texts = []
  for i in range(draw(st.integers(3, 8))):
    text = ' '.join([f'<{i}>', *draw(words), f'</{i}>.'])
    texts.append(text)
  pieces = []
  for text in texts:
    gap = draw(gaps)
    # Up to the last line break a gap belongs to the segment before it.
    at = gap.rfind('\n') + 1
    if pieces:
      pieces[-1] += gap[:at]
      text = gap[at:] + text
    pieces.append(text)
  return pieces


def record_of(pieces, tokenizer=BYTES):
  ends = np.cumsum([len(piece) for piece in pieces]).tolist()
  stage = records.Text(tokenizer, lambda _: ends, min_words=1)
  document = Document('doc@0', 'doc line 1', {'text': ''.join(pieces)})
  return stage.record(document, records.Tally(Faults()))


def count(task, record, tokenizer=BYTES):
  sizes = np.array([task.stage(tokenizer, 'text', None, 1).sizes(record)])
  return int(task.count(sizes, tokenizer)[0])


def examples(task, record, tokenizer=BYTES):
  return [
    task.example(record, 'corpus', i, tokenizer)
    for i in range(count(task, record, tokenizer))
  ]


@hypothesis.given(documents())
def test_asr_prompts_are_the_context_and_nothing_after_it(pieces):
  record = record_of(pieces)
  found = examples(ASR, record)
  # All but the first and the last.
  assert [e.segment for e in found] == list(range(1, len(pieces) - 1))
  head = prompts.ASR.replace('{context}', '')
  for example in found:
    i = example.segment
    prompt = BYTES.decode(example.prompt_tokens)
    assert prompt.startswith(head)
    context = prompt.removeprefix(head)
    before = ''.join(pieces[:i]).strip()
    assert before.endswith(context) and context == context.strip()
    assert f'<{i}>' not in prompt and f'<{i - 1}>' in prompt
    # Cut at a segment's start, and only if one more would not have fitted.
    first = next(j for j in range(i) if f'<{j}>' in context)
    assert context == ''.join(pieces[first:i]).strip()
    if first:
      assert len(''.join(pieces[first - 1 : i]).strip()) > ASR.room(BYTES)
    assert len(example.prompt_tokens) <= ASR.max_prompt_tokens
    assert example.references == tuple(pieces[i : i + 3])


@hypothesis.given(documents())
def test_msr_prompts_show_the_next_segment_and_not_the_target(pieces):
  record = record_of(pieces)
  for example in examples(MSR, record):
    i = example.segment
    prompt = BYTES.decode(example.prompt_tokens)
    context, _, rest = prompt.removeprefix('## Text Material ##: ').partition(
      '\n\n<MASK>\n\n'
    )
    shown, _, _ = rest.partition('\n\n## Task ##')
    assert ''.join(pieces[:i]).strip().endswith(context)
    # All of it, or its first half of the room.
    assert pieces[i + 1].strip().startswith(shown)
    assert len(shown) == min(len(pieces[i + 1].strip()), MSR.room(BYTES) // 2)
    assert f'<{i}>' not in prompt and f'</{i}>' not in prompt
    assert len(example.prompt_tokens) <= MSR.max_prompt_tokens
    # What is shown is no part of what must be predicted.
    assert example.references == (pieces[i],)


def test_a_segment_that_alone_is_too_long_loses_its_beginning():
  record = record_of(['a' * 500, 'b' * 500, 'c' * 9])
  (example,) = examples(ASR, record)
  room = ASR.room(BYTES)
  assert BYTES.decode(example.prompt_tokens).endswith('\n' + 'a' * room)
  assert len(example.prompt_tokens) == ASR.max_prompt_tokens


def test_prompts_are_the_tokens_of_their_text(bpe):
  pieces = ['One is here.', ' Two is there.\n\n', 'Three is far.', ' The end.']
  record = record_of(pieces, bpe)
  task = tasks.Asr()
  for example in examples(task, record, bpe):
    context = ''.join(pieces[: example.segment]).strip()
    text = prompts.ASR.format(context=context)
    assert example.prompt_tokens.tolist() == bpe.encode(text)


def test_fewer_than_three_segments_give_nothing():
  for pieces in (['One.'], ['One.', ' Two.']):
    record = record_of(pieces)
    assert examples(ASR, record) == examples(MSR, record) == []
    assert count(tasks.Ntp(), record) == 1


def test_targets_are_chosen_by_hash():
  record = record_of([f'Segment {i}. ' for i in range(50)])
  task = tasks.Asr(max_targets=5)
  chosen = [e.segment for e in examples(task, record)]
  assert len(set(chosen)) == 5 and chosen == sorted(chosen)
  assert chosen != list(range(1, 6))
  other = {**record, 'document': 'doc@1'}
  assert chosen != [e.segment for e in examples(task, other)]
  assert count(tasks.Asr(max_targets=50), record) == 48
  # The same for both tasks, so that they can be compared.
  msr = tasks.Msr(max_targets=5)
  assert chosen == [e.segment for e in examples(msr, record)]


def test_following_is_how_many_segments_the_reference_has():
  pieces = [f'Segment {i}. ' for i in range(5)]
  record = record_of(pieces)
  for following in (1, 2, 9):
    found = examples(tasks.Asr(following=following), record)
    assert [e.references for e in found] == [
      tuple(pieces[i : i + following]) for i in (1, 2, 3)
    ]
    assert found[0].id == 'corpus/doc@0/1/asr'


def test_rlpt_is_asr_and_msr_by_weight():
  asr, msr = tasks.rlpt(msr_weight=0.5, following=2, max_prompt_tokens=777)
  assert (asr.name, asr.weight, asr.following) == ('asr', 1, 2)
  assert (msr.name, msr.weight, msr.max_prompt_tokens) == ('msr', 0.5, 777)


def test_too_little_room_says_what_to_set():
  with pytest.raises(
    ValueError, match=r'max_prompt_tokens is 250, .*takes 274'
  ):
    tasks.Asr(max_prompt_tokens=250).room(BYTES)


@pytest.mark.parametrize('options', [
  {'weight': 0}, {'max_prompt_tokens': -1}, {'max_targets': 0},
  {'following': 0},
])  # fmt: skip
def test_options_that_make_no_sense(options):
  with pytest.raises(
    ValueError, match=r'=(0|-1): expected a .*(above 0|at least 1)'
  ):
    tasks.Asr(**options)


@hypothesis.given(st.integers(1, 40), st.integers(2, 12))
def test_ntp_predicts_every_token_but_the_first_once(num_tokens, row_tokens):
  task = tasks.Ntp(row_tokens=row_tokens)
  record = {'tokens': np.arange(num_tokens), 'targets': []}
  whole = [BYTES.bos_id, *range(num_tokens), *BYTES.eos_ids]
  predicted = []
  sizes = (0, num_tokens)
  for i in range(count(task, record)):
    tokens, loss = task.example(record, '', i, BYTES)
    assert len(tokens) == len(loss) == task.length(sizes, i, BYTES)
    assert 2 <= len(tokens) <= row_tokens
    if predicted:
      assert tokens[0] == predicted[-1]  # Overlaps by one.
    predicted += tokens[1:].tolist()
  assert predicted == whole[1:]


@pytest.mark.parametrize('task', [tasks.Ntp, tasks.Sft])
def test_rows_of_one_token_predict_nothing(task):
  with pytest.raises(ValueError, match=r'row_tokens=1: .* of at least 2\.'):
    task(row_tokens=1)


def test_sft_leaves_out_what_is_longer_than_a_row():
  task = tasks.Sft(row_tokens=4)
  record = {'tokens': np.arange(4), 'loss': np.array([0, 0, 1, 1])}
  assert count(task, record) == 1
  tokens, loss = task.example(record, '', 0, BYTES)
  assert tokens.tolist() == [0, 1, 2, 3] and loss.tolist() == [0, 0, 1, 1]
  assert task.pieces(record, 0, BYTES) == [('plain', [0, 1]), ('loss', [2, 3])]
  assert count(tasks.Sft(row_tokens=3), record) == 0


def test_rlvr_asks_the_question():
  task = tasks.Rlvr(max_prompt_tokens=200)
  record = {
    'document': 'd@0',
    'tokens': np.array(BYTES.encode('How many?')),
    'answer': '7',
  }
  (example,) = examples(task, record)
  assert BYTES.decode(example.prompt_tokens) == (
    prompts.RLVR.replace('{question}', 'How many?')
  )
  assert example.references == ('7',) and example.kind == 'rlvr'
  # A question without its end is another question.
  assert count(tasks.Rlvr(max_prompt_tokens=80), record) == 0
  for template in ('Solve this.', '{question} {context}'):
    with pytest.raises(ValueError, match=r'expected \{question\}'):
      tasks.Rlvr(template=template)
