"""`rlpt generate`: a prompts file in, a completions file out."""

import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from rlpt_jax import cli
from rlpt_jax.completions import current_model, jobs, tokenized
from rlpt_jax.core import tokenizer as tokenizer_lib
from rlpt_jax.core import weights
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.inference import model_files
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface, zoo
from rlpt_jax.programs.convert import convert
from rlpt_jax.sampling import engine as engine_lib
from rlpt_jax.training.checkpoints import Store
from tests import compiled

ROOT = pathlib.Path(__file__).parents[2]
TEMPLATE = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + "
  "'<|im_end|> ' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"
)


def _save(directory, one_device, change=lambda x: x):
  config = zoo.get('tiny_llama')
  specs = decoder_lib.specs(config)
  params = weights.init(specs, jax.random.key(0), layout=one_device)
  arrays = [
    (path, np.dtype('float32'), lambda x=x: change(np.asarray(x)))
    for path, x in weights.named(params)
  ]
  huggingface.save(directory, config, specs, arrays)
  return directory


@pytest.fixture(scope='module')
def model(tmp_path_factory, one_device):
  """A random model without a tokenizer, as a Hugging Face directory."""
  return _save(tmp_path_factory.mktemp('model') / 'hf', one_device)


@pytest.fixture(scope='module')
def bpe_model(tmp_path_factory, model):
  """The same with a tokenizer whose tokens are some letters each, and a chat
  template.
  """
  directory = tmp_path_factory.mktemp('model') / 'bpe'
  shutil.copytree(model, directory)
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=zoo.get('tiny_llama').vocab_size,
    special_tokens=['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
    show_progress=False,
  )
  bpe.train_from_iterator([pathlib.Path(cli.__file__).read_text()], trainer)
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token='<|endoftext|>'
  )
  tokenizer.chat_template = TEMPLATE
  tokenizer.save_pretrained(directory)
  return directory


def _generate(model, prompts, out, *arguments):
  # Rooms of one size, so that what is compiled serves most tests.
  return cli.main([
    'generate', str(model), '--prompts', str(prompts), '--out', str(out),
    '--max_new_tokens', '6', '--slots', '8', '--max_prompt_tokens', '32',
    *map(str, arguments),
  ])  # fmt: skip


def _lines(path):
  return [json.loads(line) for line in path.read_text().split('\n')[:-1]]


def _ids(path):
  return [line['completion_tokens'] for line in _lines(path)]


@pytest.mark.slow
def test_one_line_a_completion(model, tmp_path, capsys):
  prompts, out = tmp_path / 'p.txt', tmp_path / 'new' / 'c.jsonl'
  prompts.write_text('One.\n\nTwo, héllo.\nThree.\n')
  arguments = ['--n', 3, '--tokenizer', 'bytes']
  assert _generate(model, prompts, out, *arguments) == 0
  lines = _lines(out)
  assert [(x['prompt'], x['sample']) for x in lines] == [
    (prompt, sample)
    for prompt in ('One.', 'Two, héllo.', 'Three.')
    for sample in (0, 1, 2)
  ]
  for line in lines:
    assert list(line) == [
      'prompt', 'sample', 'completion', 'completion_tokens', 'logprobs',
      'policy_logprobs', 'finish_reason',
    ]  # fmt: skip
    ids = line['completion_tokens']
    assert len(ids) == len(line['logprobs']) == len(line['policy_logprobs'])
    stops = line['finish_reason'] == 'stop'
    assert ids[-1] == 256 if stops else len(ids) == 6
    assert line['completion'] == ByteTokenizer().decode(ids)
    assert max(line['logprobs']) < 0
    np.testing.assert_allclose(
      line['logprobs'], line['policy_logprobs'], rtol=1e-6
    )
  assert len({tuple(line['completion_tokens']) for line in lines}) == 9
  # The last line printed says all of it.
  last = capsys.readouterr().out.splitlines()[-1]
  stopped = sum(line['finish_reason'] == 'stop' for line in lines)
  tokens = sum(map(len, _ids(out)))
  assert last.startswith(
    f'wrote {out}: 3 prompts, 9 completions ({stopped} stopped, {9 - stopped} '
    f'cut by max_new_tokens), {tokens} tokens; '
  )
  # The same again, whatever runs beside what; another seed is another file.
  again, other = tmp_path / 'again.jsonl', tmp_path / 'other.jsonl'
  assert _generate(model, prompts, again, *arguments, '--slots', 16) == 0
  assert _ids(again) == _ids(out)
  assert _generate(model, prompts, other, *arguments, '--seed', 1) == 0
  assert _ids(other) != _ids(out)


def test_tokens_for_a_model_without_a_tokenizer(model, tmp_path):
  prompts, out = tmp_path / 'p.jsonl', tmp_path / 'c.jsonl'
  prompts.write_text('{"prompt_tokens": [1, 2, 3]}\n{"prompt_tokens": [4]}\n')
  assert _generate(model, prompts, out, '--temperature', 0) == 0
  assert [x['prompt_tokens'] for x in _lines(out)] == [[1, 2, 3], [4]]
  for line in _lines(out):
    assert line['completion'] is None
    assert line['logprobs'] == [0] * 6
    assert max(line['policy_logprobs']) < 0
  # One token to choose from is the most probable one.
  one = tmp_path / 'one.jsonl'
  assert _generate(model, prompts, one, '--top_k', 1) == 0
  assert _ids(one) == _ids(out)


def test_lines_end_with_a_newline_and_nothing_else(model, tmp_path):
  prompts, out = tmp_path / 'p.jsonl', tmp_path / 'c.jsonl'
  texts = ['one\u2028two', 'three\x0cfour', 'half a pair \ud800']
  prompts.write_text('\n\n'.join(json.dumps({'prompt': t}) for t in texts))
  assert _generate(model, prompts, out, '--tokenizer', 'bytes') == 0
  assert [line['prompt'] for line in _lines(out)] == texts


@pytest.mark.slow
def test_a_checkpoint_says_what_its_directory_said(bpe_model, tmp_path):
  checkpoint = tmp_path / 'checkpoint'
  convert(bpe_model, checkpoint)
  prompts = tmp_path / 'p.txt'
  prompts.write_text('import\ndef\n')
  results = []
  for source in (bpe_model, checkpoint):
    out = tmp_path / f'{source.name}.jsonl'
    assert _generate(source, prompts, out, '-n', 2) == 0
    results.append(out.read_bytes())
  assert results[0] == results[1]


@pytest.mark.slow
def test_a_stop_is_found_in_the_text(bpe_model, tmp_path):
  prompts, whole = tmp_path / 'p.txt', tmp_path / 'whole.jsonl'
  prompts.write_text('import\ndef\n')
  assert _generate(bpe_model, prompts, whole, '-n', 64) == 0
  tokenizer = tokenizer_lib.load(bpe_model)
  (special,) = tokenized.special_ids(tokenizer, ('<|im_end|>',))
  # The end of a token and the beginning of the next, as no token is.
  lines = _lines(whole)
  first, second = map(
    tokenizer.decode, zip(lines[3]['completion_tokens'][2:4], strict=True)
  )
  stop = first[-1] + second[0]
  arguments = ['-n', 64, '--stop', stop, '--stop', '<|im_end|>']
  out = tmp_path / 'c.jsonl'
  assert _generate(bpe_model, prompts, out, *arguments) == 0
  found = {'text': 0, 'special': 0, 'neither': 0}
  for line, full in zip(_lines(out), lines, strict=True):
    ids, count, why = full['completion_tokens'], 0, 'neither'
    while count < len(ids) and why == 'neither':
      count += 1
      if stop in tokenizer.decode(ids[:count]):
        why = 'text'
      elif ids[count - 1] == special:
        why = 'special'
    found[why] += 1
    assert line['completion_tokens'] == ids[:count]
    text = tokenizer.decode(ids[:count])
    assert line['completion'] == text.partition(stop)[0]
    assert line['policy_logprobs'] == full['policy_logprobs'][:count]
    if why != 'neither':
      assert line['finish_reason'] == 'stop'
    else:
      assert line['finish_reason'] == full['finish_reason']
  assert min(found.values()) > 0, found


@pytest.mark.slow
def test_a_model_without_a_tokenizer_ends_where_its_files_say(model, tmp_path):
  prompts, whole = tmp_path / 'p.jsonl', tmp_path / 'whole.jsonl'
  prompts.write_text('{"prompt_tokens": [5, 9, 200]}\n')
  greedy = ['--temperature', 0, '--max_new_tokens', 12]
  assert _generate(model, prompts, whole, *greedy) == 0
  (ids,) = _ids(whole)
  eos = ids[4]
  ends = ids.index(eos) + 1
  with_end = tmp_path / 'with_end'
  shutil.copytree(model, with_end)
  (with_end / 'generation_config.json').write_text(
    json.dumps({'eos_token_id': [eos, 258]})
  )
  out = tmp_path / 'c.jsonl'
  assert _generate(with_end, prompts, out, *greedy) == 0
  (line,) = _lines(out)
  assert line['completion_tokens'] == ids[:ends]
  assert line['finish_reason'] == 'stop'


@pytest.mark.slow
def test_a_random_model_is_named_from_anywhere(tmp_path, monkeypatch, capsys):
  prompts, out = tmp_path / 'p.txt', tmp_path / 'c.jsonl'
  prompts.write_text('a\n')
  arguments = ['random:tiny_qwen3', prompts, out, '--max_new_tokens', 2]
  assert _generate(*arguments) == 0
  monkeypatch.chdir(tmp_path)
  assert _generate(*arguments) == 0
  assert 'already complete' in capsys.readouterr().out
  assert _generate(*arguments, '--step', 7) == 2
  assert 'a random model has no step 7' in capsys.readouterr().err


@pytest.mark.slow
def test_what_has_ended_makes_room(bpe_model, tmp_path, monkeypatch):
  engines, updates = [], []

  class Engine(engine_lib.Engine):
    def __init__(self, *arguments, **options):
      super().__init__(*arguments, **options)
      engines.append(self)

  monkeypatch.setattr(current_model, 'Engine', Engine)
  monkeypatch.setattr(
    jobs.Progress, 'update', lambda self, *now: updates.append(now)
  )
  prompts, whole = tmp_path / 'p.txt', tmp_path / 'whole.jsonl'
  prompts.write_text(''.join(f'{"def " * (i % 4)}is\n' for i in range(16)))
  arguments = ['--max_new_tokens', 40]
  assert _generate(bpe_model, prompts, whole, *arguments) == 0
  out = tmp_path / 'c.jsonl'
  arguments += ['--stop', 'e', '--stop', 'a']
  assert _generate(bpe_model, prompts, out, *arguments) == 0
  for ids, full in zip(_ids(out), _ids(whole), strict=True):
    assert ids == full[: len(ids)]
  # Nobody samples further than to the end of the chunk, of 16, that ended it.
  lengths = [len(ids) for ids in _ids(out)]
  assert sum(lengths) < 0.6 * sum(map(len, _ids(whole)))
  sampled = engines[1].counts['tokens']
  assert sum(lengths) <= sampled <= sum(-(-x // 16) * 16 for x in lengths)
  assert updates[-1] == (16, 16, sampled)


def test_a_chat_is_by_the_template(bpe_model, tmp_path):
  texts, ids = tmp_path / 'p.txt', tmp_path / 'p.jsonl'
  texts.write_text('def\n')
  tokenizer = transformers.AutoTokenizer.from_pretrained(bpe_model)
  tokens = tokenizer.encode(
    '<|im_start|>user def<|im_end|> <|im_start|>assistant ',
    add_special_tokens=False,
  )
  ids.write_text(json.dumps({'prompt_tokens': tokens}))
  outs = [tmp_path / name for name in ('chat', 'ids', 'plain')]
  assert _generate(bpe_model, texts, outs[0], '--chat') == 0
  assert _generate(bpe_model, ids, outs[1]) == 0
  assert _generate(bpe_model, texts, outs[2]) == 0
  assert _lines(outs[0])[0]['prompt'] == 'def'
  assert _ids(outs[0]) == _ids(outs[1]) != _ids(outs[2])


@pytest.fixture
def done(model, tmp_path):
  """(model, prompts, out, arguments) of a file that is complete."""
  prompts, out = tmp_path / 'p.txt', tmp_path / 'c.jsonl'
  prompts.write_text(''.join(f'Prompt {i}\n' for i in range(9)))
  run = model, prompts, out, '--tokenizer', 'bytes', '-n', 2
  assert _generate(*run) == 0
  return run


@pytest.mark.parametrize('keep', [0, 1, 3.5, 6, 17])
def test_what_is_there_is_not_done_again(keep, done, capsys):
  _, _, out, *_ = done
  whole = out.read_bytes()
  lines = whole.splitlines(keepends=True)
  half = lines[int(keep)][:50] if keep % 1 else b''
  out.write_bytes(b''.join(lines[: int(keep)]) + half)
  capsys.readouterr()
  assert _generate(*done) == 0
  assert out.read_bytes() == whole
  printed = capsys.readouterr().out
  whole_groups = int(keep) // 2
  assert f'{whole_groups} prompts are done already' in printed or keep < 2
  assert '9 prompts, 18 completions' in printed


def test_a_complete_file_is_left_alone(done, capsys, monkeypatch):
  out = done[2]
  before = out.stat().st_mtime_ns, out.read_bytes()
  monkeypatch.setattr(model_files.ModelFiles, 'load_params', None)
  capsys.readouterr()
  assert _generate(*done) == 0
  printed = capsys.readouterr().out
  assert printed.startswith(f'{out}: already complete, nothing to do: 9 prompt')
  assert (out.stat().st_mtime_ns, out.read_bytes()) == before


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['-n', 3], 'n was 2, now 3'),
    (
      ['--seed', 1, '--top_p', 0.5],
      'top_p was 1.0, now 0.5; seed was 0, now 1',
    ),
    (['--stop', 'é'], r'stop was \[\], now \["é"\]'),
    (['--dtype', 'bfloat16'], 'dtype was "float32", now "bfloat16"; cache_dt'),
  ],
)
def test_other_settings_do_not_mix(arguments, message, done, capsys):
  before = done[2].read_bytes()
  assert _generate(*done, *arguments) == 2
  err = capsys.readouterr().err
  assert re.search(f'c.jsonl: was begun with other settings: {message}', err)
  assert done[2].read_bytes() == before


def test_other_prompts_do_not_mix(done, capsys):
  _, prompts, out, *_ = done
  prompts.write_text(prompts.read_text().replace('8', '9'))
  assert _generate(*done) == 2
  assert 'prompts was "9, sha256 ' in capsys.readouterr().err
  assert _generate(*done, '--overwrite') == 0
  assert _lines(out)[-1]['prompt'] == 'Prompt 9'


def test_other_weights_do_not_mix(model, tmp_path, one_device, capsys):
  source, checkpoint = tmp_path / 'source', tmp_path / 'checkpoint'
  shutil.copytree(model, source)
  prompts, out = tmp_path / 'p.txt', tmp_path / 'c.jsonl'
  prompts.write_text('a\nb\n')
  run = source, prompts, out, '--tokenizer', 'bytes'
  assert _generate(*run) == 0
  first = out.read_bytes().splitlines(keepends=True)[0]
  out.write_bytes(first)
  shutil.rmtree(source)
  _save(source, one_device, lambda x: x * 1.001)
  assert _generate(*run) == 2
  assert re.search(
    r'settings: weights was \d+, now \d', capsys.readouterr().err
  )
  assert out.read_bytes() == first

  # A run that goes on training writes the next checkpoint.
  convert(model, checkpoint)
  run = checkpoint, prompts, tmp_path / 'd.jsonl', '--tokenizer', 'bytes'
  assert _generate(*run) == 0
  params = model_files.find(model).load_params(layout=one_device)
  with Store(checkpoint, read_only=True) as store:
    _, record = store.record()
  with Store(checkpoint) as store:
    store.save(1, {'params': params}, record)
  assert _generate(*run) == 2
  assert 'settings: step was 0, now 1. Restore' in capsys.readouterr().err
  assert _generate(*run, '--step', 0) == 0
  assert 'already complete' in capsys.readouterr().out


def test_weights_that_are_no_numbers(tmp_path, one_device, capsys):
  model = _save(tmp_path / 'model', one_device, lambda x: x * np.nan)
  prompts, out = tmp_path / 'p.jsonl', tmp_path / 'c.jsonl'
  prompts.write_text('\n{"prompt_tokens": [1]}')
  assert _generate(model, prompts, out) == 2
  err = capsys.readouterr().err
  assert 'p.jsonl: request 0, sample 0: NaN log-probability' in err


ONE = '{"prompt_tokens": [1]}'


@pytest.mark.parametrize(
  ('content', 'arguments', 'message'),
  [
    ('{"prompt": 3}', [], r'p.jsonl:1: .*expected an object with either'),
    ('', [], 'p.jsonl: contains no prompts'),
    (f'{ONE}\n{{"prompt_tokens": [259]}}', [], 'p.jsonl:2: token 259 is out'),
    ('{"prompt": "a"}', [], 'no tokenizer found'),
    (ONE, ['--n', 0], '--n=0: expected at least 1'),
    (ONE, ['--temperature', -1], '--temperature=-1.0: expected at least 0'),
    (ONE, ['--temperature', 'nan'], '--temperature=nan: expected at least 0'),
    (ONE, ['--top_p', 2], '--top_p=2.0: expected at least 1e-06 and at most 1'),
    (ONE, ['--min_p', -0.1], '--min_p=-0.1: expected at least 0 and at most'),
    (ONE, ['--seed', 2**32], 'expected at least 0 and at most 4294967295'),
    (ONE, ['--max_prompt_tokens', 0], '--max_prompt_tokens=0: expected'),
    (
      f'{ONE}\n\n{{"prompt_tokens": [1, 2, 3]}}', ['--max_prompt_tokens', 2],
      'p.jsonl:3: 3 tokens, expected at most --max_prompt_tokens=2',
    ),
    (ONE, ['--step', 3], 'has no step 3'),
    (ONE, ['--stop', 'a'], 'no tokenizer found'),
    (ONE, ['--stop', '', '--tokenizer', 'bytes'], "--stop='': expected"),
    (ONE, ['--chat', '--tokenizer', 'bytes'], 'l:1: prompt_tokens cannot'),
    ('{"prompt": "a"}', ['--chat', '--tokenizer', 'bytes'], 'no chat templ'),
  ],
)  # fmt: skip
def test_a_mistake_is_one_line(
  content, arguments, message, model, tmp_path, capsys
):
  prompts = tmp_path / 'p.jsonl'
  prompts.write_text(content)
  out = tmp_path / 'c.jsonl'
  assert _generate(model, prompts, out, *arguments) == 2
  assert re.search(message, capsys.readouterr().err)
  assert not out.exists()


def test_a_prompt_without_tokens(bpe_model, tmp_path, capsys):
  prompts, out = tmp_path / 'p.jsonl', tmp_path / 'c.jsonl'
  prompts.write_text('{"prompt": "a"}\n{"prompt": ""}')
  assert _generate(bpe_model, prompts, out) == 2
  assert "p.jsonl:2: '' has no tokens" in capsys.readouterr().err


def test_nothing_is_written_over(model, tmp_path, capsys):
  prompts, out = tmp_path / 'p.jsonl', tmp_path / 'c.jsonl'
  prompts.write_text(ONE)
  out.write_text('precious')
  assert _generate(model, prompts, out) == 2
  assert 'was not written by rlpt generate' in capsys.readouterr().err
  assert out.read_text() == 'precious'
  assert _generate(model, prompts, out, '--overwrite') == 2
  assert 'was not written by rlpt generate' in capsys.readouterr().err
  assert out.read_text() == 'precious'
  assert _generate(model, prompts, '/dev/full') == 2
  assert '/dev/full: is a device; expected a file' in capsys.readouterr().err
  assert _generate(model, prompts, prompts, '--overwrite') == 2
  assert 'is the prompts file' in capsys.readouterr().err
  assert prompts.read_text() == ONE
  out.write_text('')  # Nothing is lost.
  assert _generate(model, prompts, out) == 0
  assert len(_lines(out)) == 1


def test_more_than_the_model_has_seen_is_said(model, tmp_path, capsys):
  prompts = tmp_path / 'p.jsonl'
  prompts.write_text(ONE)
  small = tmp_path / 'small'
  shutil.copytree(model, small)
  config = json.loads((small / 'config.json').read_text())
  config['max_position_embeddings'] = 6
  (small / 'config.json').write_text(json.dumps(config))
  assert _generate(small, prompts, tmp_path / 'c.jsonl') == 0
  warning = capsys.readouterr().err
  assert (
    'warning: 1 prompt tokens and 6 new ones are more than the 6' in warning
  )


# Runs that end too early, as processes of their own.


def _start(model, prompts, out, **options):
  environment = compiled.on_one_device() | {'PYTHONPATH': str(ROOT)}
  return subprocess.Popen(
    [sys.executable, '-m', 'rlpt_jax.cli', 'generate', str(model),
     '--prompts', str(prompts), '--out', str(out), '--tokenizer', 'bytes',
     '--max_new_tokens', '150', '--slots', '8', '-n', '3', '--stop', 'e'],
    env=environment, **options,
  )  # fmt: skip


def _wait_for_growth(path, process):
  size = path.stat().st_size if path.exists() else 0
  deadline = time.monotonic() + 600
  while not path.exists() or path.stat().st_size < size + 10_000:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)


def _read_all(file: int) -> str:
  data = b''
  while True:
    try:
      piece = os.read(file, 4096)
    except OSError:  # The other end is closed.
      piece = b''
    if not piece:
      return data.decode()
    data += piece


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_ends_as_if_it_had_not_been(
  model, tmp_path
):
  prompts, out, plain = (
    tmp_path / name for name in ('p.txt', 'c.jsonl', 'plain.jsonl')
  )
  prompts.write_text(''.join(f'{"Prompt " * (i % 5)}{i}\n' for i in range(40)))
  files = model, prompts, out

  # Ctrl-C in a terminal: a bar, then one line.
  ours, theirs = pty.openpty()
  process = _start(*files, stdout=theirs, stderr=theirs)
  os.close(theirs)
  _wait_for_growth(out, process)
  process.send_signal(signal.SIGINT)
  text = _read_all(ours)
  os.close(ours)
  assert process.wait(timeout=600) == 130, text
  text = re.sub(r'\x1b\[[?0-9;]*[a-zA-Z]', '', text)
  assert re.search(r'━ 0/40 prompts, compiling', text)
  assert re.search(r'━ \d+/40 prompts, [\d,]+ tokens', text)
  *_, last = text.strip().splitlines()
  assert re.search(
    rf'rlpt generate: interrupted: \d+ of 40 prompts are in {out}; run the '
    'same command to resume$',
    last,
  ), text
  assert 'Traceback' not in text

  # kill -9, in the middle of a line.
  process = _start(*files, stdout=subprocess.DEVNULL)
  _wait_for_growth(out, process)
  process.kill()
  process.wait()
  with out.open('ab') as file:
    file.write(b'{"prompt": "Pro')
  done = out.read_bytes().count(b'\n')
  assert 6 <= done < 120

  # To its end, into a log.
  process = _start(*files, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  log = process.communicate(timeout=600)[0].decode()
  assert process.returncode == 0, log
  assert f'{done // 3} prompts are done already' in log
  assert not re.search(r'[\x00-\x09\x0b-\x1f]', log)
  assert len(log.splitlines()) == 5

  process = _start(model, prompts, plain)
  assert process.wait(timeout=600) == 0
  assert out.read_bytes() == plain.read_bytes()
  assert len(_lines(out)) == 120
