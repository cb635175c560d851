"""What is in the repository is whole, small, and what its cards say."""

import json
import pathlib

import pytest

from rlpt_jax.core import tokenizer as tokenizers
from rlpt_jax.data import prompts
from rlpt_jax.inference import model_files
from rlpt_jax.programs import quickstart
from rlpt_jax.quickstart import small_models
from rlpt_jax.rewards import judge

BASE, JUDGE = (quickstart.FILES / name for name in ('base', 'judge'))


def test_directories_are_small_complete_and_what_their_cards_say():
  size = 0
  for folder in (BASE, JUDGE):
    size += sum(path.stat().st_size for path in folder.iterdir())
    card = (folder / 'README.md').read_text()
    assert small_models.checksum(folder) in card
    files = model_files.find(folder)
    assert files.eos_ids() == files.load_tokenizer().eos_ids
  assert size < 8 * 2**20
  texts = [(folder / 'tokenizer.json').read_bytes() for folder in (BASE, JUDGE)]
  assert texts[0] == texts[1]


def test_the_lines_of_prompts_are_a_token_each():
  tokenizer = tokenizers.load(BASE)
  assert len(tokenizer.encode(prompts.ASR.replace('{context}', ''))) == 1
  filled = judge.PROMPT.format(reference='The pool.', predicted='So the red.')
  # Three lines, and the sentences of 3 and of 4 tokens.
  assert len(tokenizer.encode(filled)) == 10
  for answer in ('Score: 0', 'Score: 1'):
    assert len(tokenizer.encode(answer)) == 1
  for text in (prompts.ASR, prompts.MSR, judge.PROMPT, 'Hé \n\n\n 你好'):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.slow
def test_the_tokenizer_follows_from_the_seed(tmp_path):
  small_models.write_random(tmp_path / 'random', seed=0)
  made = (tmp_path / 'random' / 'tokenizer.json').read_bytes()
  assert made == (BASE / 'tokenizer.json').read_bytes()
  config = json.loads((tmp_path / 'random' / 'config.json').read_text())
  assert config['eos_token_id'] == 0


@pytest.mark.slow
@pytest.mark.parametrize('folder', [BASE, JUDGE], ids=lambda path: path.name)
def test_transformers_says_the_same(folder: pathlib.Path, tmp_path):
  assert_same_greedy_text(
    folder, 'On Monday the pool was open, and it', tmp_path
  )


def assert_same_greedy_text(folder, prompt, tmp_path):
  """Ours and that of transformers, 24 tokens after the prompt."""
  import torch
  import transformers

  from rlpt_jax.completions.options import EngineOptions, SamplingOptions
  from rlpt_jax.programs.generate import generate

  asked, answered = tmp_path / 'asked.jsonl', tmp_path / 'answered.jsonl'
  asked.write_text(json.dumps({'prompt': prompt}) + '\n')
  generate(
    folder, prompts=asked, out=answered,
    sampling=SamplingOptions(max_new_tokens=24, temperature=0.0),
    engine=EngineOptions(slots=1),
  )  # fmt: skip
  ours = json.loads(answered.read_text())['completion_tokens']
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  ids = tokenizer(prompt, return_tensors='pt').input_ids
  theirs = model.generate(ids, max_new_tokens=24, do_sample=False)
  assert theirs[0, ids.shape[1] :].tolist() == ours
