"""Paragraphs that fit, and prompts that ask for a span or hide one."""

import pytest

from rlpt_jax.data import mask_tasks, masks, prompts, records
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.readers import Document
from tests.data.tasks_test import BYTES, count, examples

TOWNS = 'The town lies on the river. ' * 4
LAKES = 'A lake was dug near it in 1850, for the mills. ' * 3


def paragraphs_of(task, *texts):
  stage = task.stage(BYTES, 'text', None, 1)
  document = Document('d@0', 'd line 1', {'text': '\n\n'.join(texts)})
  tally = records.Tally(Faults())
  return stage.record(document, tally), tally


def test_mask_asks_for_a_span_of_each_paragraph_that_fits():
  task = mask_tasks.ChooseSpan(max_prompt_tokens=len(prompts.MASK) + 200)
  long = 'It is far away. ' * 20
  marked = 'Fill in the [mask] in this sentence here. ' * 3
  record, tally = paragraphs_of(task, '# Towns', TOWNS, long, LAKES, marked)
  first, second = examples(task, record)
  for example, text, number in (first, TOWNS, 0), (second, LAKES, 1):
    text = text.strip()
    assert BYTES.decode(example.prompt_tokens) == (
      prompts.MASK.replace('{paragraph}', text)
    )
    assert example.references == (text,) and example.kind == 'choose_span'
    assert example.id == f'corpus/d@0/{number}/choose_span'
    assert len(example.prompt_tokens) <= task.max_prompt_tokens
  pieces = task.pieces(record, 1, BYTES)
  assert ('paragraph', BYTES.encode(LAKES.strip())) in pieces
  fixed = prompts.compiled(prompts.MASK, BYTES, chat=False).num_tokens
  room = task.max_prompt_tokens - fixed
  assert tally.left_out == {
    'paragraphs of fewer than 64 tokens': 1,
    f'paragraphs of more than {room} tokens': 1,
    'paragraphs that contain [mask]': 1,
  }


def test_a_document_without_a_paragraph_for_a_mask():
  record, _ = paragraphs_of(mask_tasks.ChooseSpan(), '# Towns', 'Short.')
  assert count(mask_tasks.ChooseSpan(), record) == 0


def test_a_mask_needs_room_and_a_paragraph():
  with pytest.raises(ValueError, match=r'max_prompt_tokens is 600.*Set it to'):
    mask_tasks.ChooseSpan(max_prompt_tokens=600).stage(BYTES, 'text', None, 1)
  with pytest.raises(ValueError, match=r'expected \{paragraph\}'):
    mask_tasks.ChooseSpan(template='Hide a word.')
  with pytest.raises(ValueError, match=r'expected \{passage\}'):
    mask_tasks.PredictSpan(template=prompts.MASK)


def test_predictions_ask_for_a_span_that_was_chosen_by_chance():
  fixed = prompts.compiled(prompts.SPAN, BYTES, chat=False).num_tokens
  for choose in masks.random_span, masks.next_token:
    task = mask_tasks.PredictSpan(max_prompt_tokens=fixed + 200, choose=choose)
    record, _ = paragraphs_of(task, '# Towns', TOWNS, LAKES)
    found = examples(task, record)
    assert [example.kind for example in found] == ['predict_span'] * 2
    for example, text in zip(found, (TOWNS, LAKES), strict=True):
      span, *following = example.references
      head, tail = prompts.SPAN.split('{passage}')
      passage = BYTES.decode(example.prompt_tokens)
      passage = passage.removeprefix(head).removesuffix(tail)
      assert passage.count(masks.MARK) == 1
      whole = passage.replace(masks.MARK, span)
      assert text.strip().startswith(whole)
      assert choose is masks.next_token or whole == text.strip()
      assert text.strip().startswith(whole + ''.join(following))
      assert bool(following) == (choose is masks.next_token)
      assert len(example.prompt_tokens) <= task.max_prompt_tokens
    # Always the same, and shown as it is sampled.
    again = examples(task, record)
    for i, (a, b) in enumerate(zip(found, again, strict=True)):
      assert a.prompt_tokens.tolist() == b.prompt_tokens.tolist()
      pieces = task.pieces(record, i, BYTES)
      assert [x for _, ids in pieces for x in ids] == a.prompt_tokens.tolist()


def test_entropies_need_a_policy():
  task = mask_tasks.PredictSpan(choose=masks.uncertain_token)
  record, _ = paragraphs_of(task, TOWNS)
  said = r'^mask_tasks.PredictSpan.choose: expected .* only game.Game.choose '
  said += r'may do, .*, found the function uncertain_token\.$'
  with pytest.raises(ValueError, match=said):
    task.example(record, 'corpus', 0, BYTES)


def test_what_chooses_is_a_function_of_a_paragraph():
  with pytest.raises(ValueError, match=r'PredictSpan\.choose: expected a func'):
    mask_tasks.PredictSpan(choose=masks.num_words)


def test_a_paragraph_without_a_whole_token_has_no_verdict():
  """Each of its characters is several tokens."""
  task = mask_tasks.PredictSpan(choose=masks.next_token)
  record, _ = paragraphs_of(
    task, '苏黎世位于利马特河畔，是瑞士最大的城市。' * 3
  )
  (example,) = examples(task, record)
  assert example.references == ('',)
  assert masks.MARK not in BYTES.decode(example.prompt_tokens).split(':')[1]
