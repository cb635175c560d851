"""What is read of prompts files."""

import pytest

from rlpt_jax.completions import prompt_files
from rlpt_jax.completions.group_files import GroupFile


def _read(path, data: bytes):
  path.write_bytes(data)
  return [(p.where, p.fields) for p in prompt_files.read_prompts(path)]


def test_a_text_file_has_a_prompt_a_line(tmp_path):
  path = tmp_path / 'p.txt'
  data = '\ufeff one \r\n\r\ntwo\u2028half\n \nthrée\x0c\r.'.encode()
  assert _read(path, data) == [
    (f'{path}:1', {'prompt': ' one '}),
    (f'{path}:3', {'prompt': 'two\u2028half'}),
    (f'{path}:5', {'prompt': 'thrée\x0c\r.'}),
  ]


def test_a_json_file_has_texts_or_tokens(tmp_path):
  path = tmp_path / 'p.jsonl'
  data = b'{"prompt": "a\\nb", "more": 1}\r\n\n{"prompt_tokens": [3, 0]}'
  assert _read(path, data) == [
    (f'{path}:1', {'prompt': 'a\nb'}),
    (f'{path}:3', {'prompt_tokens': [3, 0]}),
  ]


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    ('p.json', b'[]', 'p.json: expected a prompts file that ends in .txt'),
    ('p.txt', b'\n \n', 'p.txt: contains no prompts'),
    ('p.txt', b'\xff', 'p.txt: not UTF-8'),
    ('p.jsonl', b'\n{"prompt": "a"', 'p.jsonl:2: not JSON'),
    ('p.jsonl', b'{"prompt": 3}', r'p.jsonl:1: .*"prompt" \(a text'),
    ('p.jsonl', b'["a"]', 'p.jsonl:1: .*expected an object'),
    ('p.jsonl', b'{"prompt_tokens": []}', 'a list of ids'),
    ('p.jsonl', b'{"prompt_tokens": [-1]}', 'a list of ids'),
    ('p.jsonl', b'{"prompt_tokens": [true]}', 'a list of ids'),
    ('p.jsonl', b'{"prompt": "a", "prompt_tokens": [1]}', 'either "prompt"'),
  ],
)
def test_a_mistake_is_named(name, data, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    _read(tmp_path / name, data)


def test_whole_groups_are_counted(tmp_path):
  path = tmp_path / 'c.jsonl'
  line = '{"prompt": "a", "sample": %d, "completion_tokens": [1, 2], '
  line += '"finish_reason": "stop"}\n'
  path.write_text(line % 0 + line % 1 + line % 0)
  prompts = [prompt_files.Prompt('p:1', {'prompt': 'a'})] * 2
  tally = prompt_files.finished(GroupFile(path), prompts, 2)
  assert (tally.prompts, tally.completions, tally.tokens) == (1, 2, 4)
  assert tally.num_bytes == len(line % 0) * 2
