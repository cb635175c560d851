"""`rlpt generate`: a prompts file in, a completions file out."""

import json

import jax
import numpy as np
import pytest

from rlpt_jax import cli
from rlpt_jax.core import weights
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface, zoo
from rlpt_jax.programs.convert import convert


@pytest.fixture(scope='module')
def model(tmp_path_factory, one_device):
  """A random byte model, as a Hugging Face directory."""
  directory = tmp_path_factory.mktemp('model') / 'hf'
  config = zoo.get('tiny_llama')
  specs = decoder_lib.specs(config)
  params = weights.init(specs, jax.random.key(0), layout=one_device)
  arrays = [
    (path, np.dtype('float32'), lambda x=x: np.asarray(x))
    for path, x in weights.named(params)
  ]
  huggingface.save(directory, config, specs, arrays)
  return directory


def _generate(model, prompts, out, *arguments):
  return cli.main([
    'generate', str(model), '--prompts', str(prompts), '--out', str(out),
    '--max_new_tokens', '6', *map(str, arguments),
  ])  # fmt: skip


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_a_completion(model, tmp_path):
  prompts, out = tmp_path / 'p.txt', tmp_path / 'new' / 'c.jsonl'
  prompts.write_text('One.\n\nTwo, héllo.\nThree.\n')
  arguments = ['--n', 2, '--tokenizer', 'bytes', '--prompts_per_batch', 2]
  assert _generate(model, prompts, out, *arguments) == 0
  lines = _lines(out)
  assert [(x['prompt'], x['sample']) for x in lines] == [
    (prompt, sample)
    for prompt in ('One.', 'Two, héllo.', 'Three.')
    for sample in (0, 1)
  ]
  for line in lines:
    assert len(line['completion_tokens']) == len(line['logprobs']) <= 6
    assert line['finish_reason'] in ('stop', 'length')
    assert max(line['logprobs']) <= 0
  # The same again, whatever the batches.
  again = tmp_path / 'again.jsonl'
  assert _generate(model, prompts, again, *arguments[:-1], 3) == 0
  assert [x['completion_tokens'] for x in _lines(again)] == [
    x['completion_tokens'] for x in lines
  ]


def test_tokens_for_a_model_without_a_tokenizer(model, tmp_path):
  prompts, out = tmp_path / 'p.jsonl', tmp_path / 'c.jsonl'
  prompts.write_text('{"prompt_tokens": [1, 2, 3]}\n{"prompt_tokens": [4]}\n')
  assert _generate(model, prompts, out, '--temperature', 0) == 0
  assert [x['prompt_tokens'] for x in _lines(out)] == [[1, 2, 3], [4]]
  assert _lines(out)[0]['completion'] is None


def test_lines_end_with_a_newline_and_nothing_else(model, tmp_path):
  prompts, out = tmp_path / 'p.jsonl', tmp_path / 'c.jsonl'
  texts = ['one\u2028two', 'three\x0cfour']
  lines = [json.dumps({'prompt': t}, ensure_ascii=False) for t in texts]
  prompts.write_text('\n\n'.join(lines) + '\n')
  assert _generate(model, prompts, out, '--tokenizer', 'bytes') == 0
  found = out.read_text().split('\n')[:-1]
  assert [json.loads(line)['prompt'] for line in found] == texts


def test_a_checkpoint_says_what_its_directory_said(model, tmp_path):
  checkpoint = tmp_path / 'checkpoint'
  convert(model, checkpoint)
  prompts = tmp_path / 'p.txt'
  prompts.write_text('Hello\n')
  results = []
  for source in (model, checkpoint):
    out = tmp_path / f'{source.name}.jsonl'
    assert _generate(source, prompts, out, '--tokenizer', 'bytes') == 0
    results.append(_lines(out))
  assert results[0] == results[1]


@pytest.mark.parametrize(
  ('content', 'arguments', 'message'),
  [
    ('{"prompt": 3}', [], r'p.jsonl:1: .*expected an object with "prompt"'),
    ('{"prompt_tokens": []}', [], 'p.jsonl:1'),
    ('{"prompt": "a"', [], 'p.jsonl:1: not JSON'),
    ('', [], 'p.jsonl: no prompts in it'),
    ('{"prompt_tokens": [259]}', [], 'token 259 is beyond the vocabulary'),
    ('{"prompt": "a"}', [], 'found no tokenizer'),
    ('{"prompt_tokens": [1]}', ['--n', 0], '--n=0: expected at least 1'),
    ('{"prompt_tokens": [1]}', ['--temperature', -1], 'at least 0'),
    ('{"prompt_tokens": [1]}', ['--step', 3], 'has no step 3'),
  ],
)
def test_a_mistake_is_one_line(
  content, arguments, message, model, tmp_path, capsys
):
  prompts = tmp_path / 'p.jsonl'
  prompts.write_text(content)
  out = tmp_path / 'c.jsonl'
  assert _generate(model, prompts, out, *arguments) == 2
  import re

  assert re.search(message, capsys.readouterr().err)
  assert not out.exists()
