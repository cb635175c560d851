"""Files that grow by groups, and are gone on with."""

import json

import pytest

from rlpt_jax.completions import group_files, prompt_files
from rlpt_jax.completions.group_files import GroupFile
from rlpt_jax.completions.prompt_files import Prompt

SETTINGS = {'n': 2, 'stop': ['é']}
PROMPTS = [Prompt(f'p.txt:{i}', {'prompt': f'\u2028{i}'}) for i in (1, 2, 3)]


def _group(i, n=2):
  return [
    {
      **PROMPTS[i].fields,
      'sample': sample,
      'completion': '\ud800é',  # Half a surrogate pair, as bytes may be.
      'completion_tokens': [1] * i,
      'finish_reason': ('stop', 'length')[sample % 2],
    }
    for sample in range(n)
  ]


@pytest.fixture
def begun(tmp_path):
  """A file with the first two of three groups."""
  path = tmp_path / 'new' / 'c.jsonl'
  with GroupFile(path).appending(SETTINGS, after=0) as write:
    write(_group(0))
    write(_group(1))
    assert path.read_bytes().count(b'\n') == 4  # At once.
  return path


def test_lines_are_utf8_and_json(begun):
  data = begun.read_bytes()
  assert data.decode().count('\u2028') == 4
  found = [json.loads(line) for line in data.split(b'\n')[:-1]]
  assert found == _group(0) + _group(1)


@pytest.mark.parametrize('cut', [1, 20, 150, None])
def test_what_follows_whole_groups_is_done_again(cut, begun):
  two = begun.read_bytes()
  third = b''.join(map(group_files.encoded, _group(2)))
  begun.write_bytes(two + third[: cut or len(third)])
  tally = prompt_files.finished(GroupFile(begun), PROMPTS, 2)
  if cut:
    assert (tally.prompts, tally.completions, tally.tokens) == (2, 4, 2)
    assert tally.num_bytes == len(two)
  else:
    assert (tally.prompts, tally.completions, tally.tokens) == (3, 6, 6)
    assert tally.num_bytes == len(two + third)
  assert tally.finish_reasons['stop'] == tally.prompts
  with GroupFile(begun).appending(SETTINGS, after=tally.num_bytes) as write:
    if cut:
      write(_group(2))
  assert begun.read_bytes() == two + third


def test_no_file_has_nothing(tmp_path):
  assert (
    prompt_files.finished(GroupFile(tmp_path / 'c'), PROMPTS, 2).prompts == 0
  )
  GroupFile(tmp_path / 'c').check_settings(SETTINGS)
  (tmp_path / 'c').write_text('')
  GroupFile(tmp_path / 'c').check_settings(SETTINGS)


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    (b'"sample": 1', b'"sample": 2'),
    (b'\xa82"', b'\xa83"'),  # Another prompt.
    (b'{', b'['),
    (b'"finish_reason"', b'"reason"'),
    (b'}\n', b'}\n\n'),
    (b'}\n', b'\xff\n'),
  ],
)
def test_a_file_that_was_edited_is_refused(old, new, begun):
  head, found, rest = begun.read_bytes().rpartition(old)
  assert found
  begun.write_bytes(head + new + rest)
  with pytest.raises(
    ValueError, match=r'c\.jsonl:[45]: differs from what rlpt gen'
  ):
    prompt_files.finished(GroupFile(begun), PROMPTS, 2)


def test_a_file_with_more_groups_than_prompts_is_refused(begun):
  with pytest.raises(ValueError, match=r'c\.jsonl:3: differs from what'):
    prompt_files.finished(GroupFile(begun), PROMPTS[:1], 2)


def test_other_settings_are_refused(begun):
  GroupFile(begun).check_settings(SETTINGS)
  message = r'n was 2, now 3; stop was \["é"\], now \[\]; new was null, now 1\.'
  with pytest.raises(ValueError, match=message):
    GroupFile(begun).check_settings({'n': 3, 'stop': [], 'new': 1})
  # What is compared is what is known yet.
  GroupFile(begun).check_settings({'n': 2})


def test_a_file_of_somebody_else_is_refused(begun):
  GroupFile(begun).settings_path.write_text('{')
  with pytest.raises(ValueError, match=r'c\.jsonl\.run\.json: not JSON'):
    GroupFile(begun).check_settings(SETTINGS)
  GroupFile(begun).settings_path.unlink()
  with pytest.raises(ValueError, match='was not written by rlpt generate'):
    GroupFile(begun).check_settings(SETTINGS)


def test_beginning_again_leaves_nothing(begun):
  with GroupFile(begun).appending({'n': 1}, after=0):
    assert begun.read_bytes() == b''
  GroupFile(begun).check_settings({'n': 3})  # Nothing to lose.
  assert json.loads(GroupFile(begun).settings_path.read_text()) == {'n': 1}
  assert {path.name for path in begun.parent.iterdir()} == {
    'c.jsonl', 'c.jsonl.run.json',
  }  # fmt: skip


def test_two_writers_are_one_too_many(begun):
  before = begun.read_bytes()
  with GroupFile(begun).appending(SETTINGS, after=len(before)) as write:
    with pytest.raises(ValueError, match='another rlpt generate is writing'):
      with GroupFile(begun).appending(SETTINGS, after=0):
        pass
    write(_group(2))
  assert begun.read_bytes()[: len(before)] == before
