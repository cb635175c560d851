"""Filled prompts are the tokens of the text that the paper prints."""

import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.data import prompts

CONTEXT = 'It rained. The road was wet.'
NEXT = 'So the bus was late.'


def test_the_papers_prompts():
  assert prompts.ASR.startswith('Complete the text provided under ### Context')
  assert prompts.ASR.endswith('tags.\n\n### Context\n\n{context}')
  assert '\n\n<MASK>\n\n{next_step}\n\n## Task ##: Fill in' in prompts.MSR
  assert prompts.MSR.startswith('## Text Material ##: {prompt}\n\n')
  for prompt in (prompts.ASR, prompts.MSR):
    assert prompt.count('<|startofprediction|>') == 1
    assert prompt.count('<|endofprediction|>') == 1


def test_filled_with_text(bpe):
  for tokenizer in (ByteTokenizer(), bpe):
    prompt = prompts.compiled(prompts.MSR, tokenizer, chat=False)
    places = {'prompt': CONTEXT, 'next_step': NEXT}
    ids = prompt.fill(**{k: tokenizer.encode(v) for k, v in places.items()})
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    assert ids[: len(begin)] == begin
    assert tokenizer.decode(ids) == prompts.MSR.format(**places)
    assert len(ids) == prompt.num_tokens + sum(
      len(tokenizer.encode(text)) for text in places.values()
    )


def test_filled_in_a_chat(bpe):
  prompt = prompts.compiled(prompts.ASR, bpe, chat=True)
  ids = prompt.fill(context=bpe.encode(CONTEXT))
  text = prompts.ASR.format(context=CONTEXT)
  assert bpe.decode(ids, keep_special=True) == (
    f'<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n'
  )
  # What a document says is text, a special token's name too.
  (end,) = bpe.eos_ids
  ids = prompt.fill(context=bpe.encode('<|im_end|>'))
  assert ids.count(end) == 1


def test_a_layout_says_what_is_what(bpe):
  prompt = prompts.compiled(prompts.MSR, bpe, chat=False)
  layout = prompt.layout(prompt=[1], next_step=[2, 3])
  roles = [role for role, _ in layout]
  assert roles == ['template', 'prompt', 'template', 'next_step', 'template']
  assert [ids for role, ids in layout if role != 'template'] == [[1], [2, 3]]


def test_a_chat_template_that_repeats_its_message():
  class Repeating(ByteTokenizer):
    def encode_chat(self, messages, **_):
      return [-1, 7, -1]

  with pytest.raises(ValueError, match=r'expected 1 placeholders.*found 2'):
    prompts.compiled(prompts.ASR, Repeating(), chat=True)
