import functools
import json
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt_jax.llm import json_replies
from rlpt_jax.llm.chat_api import Fault
from rlpt_jax.llm.json_replies import one_of, parse, text, texts, yes_no

PAIR = {'question': text, 'answer': text}
DOMAINS = ('Math', 'Technology & Engineering', 'Other')


def read(reply):
  """The question and the answer in a reply, or the cause of its fault."""
  found = parse(reply, PAIR)
  return found.cause if isinstance(found, Fault) else tuple(found.values())


@pytest.mark.parametrize(
  'reply',
  [
    '{"question": "q", "answer": "a"}',
    '```json\n{"question": "q",\n "answer": "a"}\n```',
    "Here's the pair, as asked: {'question': 'q', 'answer': 'a'} It's fine.",
    '<think>{"question": "no", "answer": "no"}</think>{"question": "q", '
    '"answer": "a",}',
    '{“question”: “q”, ‘answer’: ‘a’}',
    '{"Question": " q\n", "ANSWER": "a", "sure": True, "notes": None}',
    '{"more": {"deep": [1, [2, {}]]}, "question": "q", "answer": "a"}',
    '{"result": {"question": "q", "answer": "a"}}',
    '[{"question": "q", "answer": "a"}]',
    '{{"question": "q", "answer": "a"}}',
    '{x} {"x} {1, 2} \\frac{1}{2} {"question": "q", "answer": "a"} {3}',
    '{"question": "no", "answer": "no"} Or: {"question": "q", "answer": "a"}',
    '{"question": "q", "answer": "no", "answer": "a"} {"score": 1}',
    '{"answer": "no", "question": "q", "answer": "a"}',
    '{"x} {"question": "q", "answer": "a"}',
    '{"broken": oh} {"question": "q", "answer": "a"}',
    '{"question": "q", "answer": "a"} {"broken": ["answer", oh}',
    # No brace at the end.
    '{"question": "q", "answer": "a"',
    '{"question": "q", "answer": "a", "thought": "It asks wh',
    '{"result": {"question": "q", "answer": "a"}',
  ],
)
def test_an_object_is_found_in_what_surrounds_it(reply):
  assert read(reply) == ('q', 'a')


@pytest.mark.parametrize(
  ('reply', 'cause'),
  [
    (None, 'no answer'),
    ('', 'no object'),
    ('I cannot do {this}.', 'no object'),
    ('{"x' + ' x' * 100, 'no object'),
    ('</think>{"question": "q", "answer": "a"}</think> Sorry.', 'no object'),
    ('<think>{"question": "q", "answer": "a"}', 'cut off'),
    ('{"question": "q", "answer": "in 19', 'cut off'),
    ('{"question": "q", "answer": 19', 'cut off'),
    ('{"question": "q", "answer": 19\n', 'cut off'),
    ("{'question': 'q', 'answer': 'the bee'", 'cut off'),  # The bee's hive?
    ('{"question": "q", "answer": "a", "answer": "b', 'cut off'),
    ('{"question": "q", "answer":', 'cut off'),
    ('{"question": "q", "ans', 'cut off'),
    ('{"question": "q"', 'cut off'),
    ('{"question": "q", "b": {"question": "r", "answer": "a"}, ', 'cut off'),
    ('{', 'cut off'),
    # The last one counts, even if it is broken.
    ('{"question": "q", "answer": "a"} {"question": "r", "ans', 'cut off'),
    ('{"question": "q", "answer": "a"} {"question": oh}', 'not JSON'),
    ('{"question": "Why "q"?", "answer": "a"}', 'not JSON'),
    ('{"question": "q" "answer": "a"}', 'not JSON'),
    ('{"question": "q", "answer": 1,000}', 'not JSON'),
    ('{"question": "q", "answer": 3 or 4}', 'not JSON'),
    ('{"question": "q", "answer": "a")', 'not JSON'),
    ('{"what": oh}', 'not JSON'),
    ('{"what": ["answer", oh} {"what": 1}', 'no field question'),
    # An example within a text is no answer.
    ('{"thought": "not {\'question\': \'q\', \'answer\': \'a\'}, b',
     'cut off'),
    ('{"question": "not {\'question\': \'q\', \'answer\': \'a\'}, b',
     'cut off'),
    ('{"score": 1}', 'no field question'),
    ('{"question": "q"}', 'no field answer'),
    ('{"question": "", "answer": ""}', 'question is empty'),
    ('{"question": null, "answer": null}', 'question is empty'),
    ('{"question": "q", "answer": " "}', 'answer is empty'),
    ('{"question": ["q"], "answer": "a"}', 'question is not a text'),
    ('{"question": {"a": "b"}, "answer": "a"}', 'question is not a text'),
  ],
)  # fmt: skip
def test_a_reply_without_a_whole_object_has_a_cause(reply, cause):
  assert read(reply) == cause


@pytest.mark.parametrize(
  ('written', 'meant'),
  [
    (r'"\u00e9\ud83d\ude00\ud83d"', 'é😀\ufffd'),
    (r"'\xe9\U0001f600 don't'", "é😀 don't"),
    ('‘don’t’', 'don’t'),
    (r'"a\tb\nc \"d\" \/ \\"', 'a\tb\nc "d" / \\'),
    ('"two\nlines\ttab"', 'two\nlines\ttab'),
    (r'"\frac{1}{2} \times \sqrt{\beta} \theta \right) \neq \text{m}"',
     r'\frac{1}{2} \times \sqrt{\beta} \theta \right) \neq \text{m}'),
    (r'"\\frac{1}{2} \\times"', r'\frac{1}{2} \times'),
    (r'"a\nThe\ttimesheet\r\nto"', 'a\nThe\ttimesheet\r\nto'),
    (r'"\underline \U99999999 \x4"', r'\underline \U99999999 \x4'),
    ('-1.5e3', '-1.5e3'), ('0', '0'), ('true', 'true'), ('Yes', 'Yes'),
  ],
)  # fmt: skip
def test_what_a_value_means(written, meant):
  assert read(f'{{"question": "q", "answer": {written}}}') == ('q', meant)


@pytest.mark.parametrize(
  ('value', 'found'),
  [
    *((each, True) for each in ('"Y"', "'yes'", '"TRUE"', 'true', 'Y', '"Y."')),
    *((each, False) for each in ('"N"', "'no'", '"False"', 'False', 'n')),
    *((each, 'ok is neither Y nor N')
      for each in ('"maybe"', '1', '"Y or N"', '["Y"]')),
    ('null', 'ok is empty'),
  ],
)  # fmt: skip
def test_yes_or_no(value, found):
  read = parse(f'{{"ok": {value}}}', {'ok': yes_no})
  assert read == {'ok': found} or read.cause == found


@pytest.mark.parametrize(
  ('value', 'found'),
  [
    ('["a nurse, at night", " b", "a nurse, at night"]',
     ['a nurse, at night', 'b']),
    ('["a", "b", "c", "d"]', ['a', 'b', 'c']),
    ('"a; b,\nc,"', ['a', 'b', 'c']),
    ('["a", {"b": 1}]', 'personas is not a list of texts'),
    ('[["a"], "b"]', 'personas is not a list of texts'),
    ('{"b": 1}', 'personas is not a list of texts'),
    ('[]', 'personas is empty'),
    ('[" ", null]', 'personas is empty'),
    ('","', 'personas is empty'),
  ],
)  # fmt: skip
def test_texts(value, found):
  read = parse(f'{{"personas": {value}}}', {'personas': texts})
  assert read == {'personas': found} or read.cause == found


@pytest.mark.parametrize(
  ('value', 'found'),
  [
    ('Math', 'Math'),
    ('technology and engineering.', 'Technology & Engineering'),
    ('**TECHNOLOGY/ENGINEERING**', 'Technology & Engineering'),
    ('Engineering & Technology', None),
    ('Maths', None),
    ('Math, Other', None),
    ('and', None),
  ],
)
def test_one_of(value, found):
  fields = {'domain': functools.partial(one_of, names=DOMAINS)}
  read = parse(json.dumps({'domain': value}), fields)
  if found is None:
    assert read == Fault('domain is not in the list', value)
  else:
    assert read == {'domain': found}


def test_names_that_would_be_confused_are_an_error():
  with pytest.raises(ValueError, match='names that differ in more than case'):
    one_of('domain', 'Math', names=('Math', 'math.'))


def test_notes_may_be_missing():
  for note, found in (('', ''), ('"note": "n", ', 'n'), ('"note": {}, ', '')):
    reply = f'{{{note}"question": "q", "answer": "a"}}'
    assert parse(reply, PAIR, notes=('note',)) == {
      'question': 'q', 'answer': 'a', 'note': found,
    }  # fmt: skip


def test_a_detail_is_short():
  fault = parse('{"question": "' + 'x' * 1000, PAIR)
  assert fault.cause == 'cut off' and len(fault.detail) < 220
  fault = parse('{"question": "' + 'x' * 1000 + '", oh}' + 'y' * 1000, PAIR)
  assert fault.cause == 'not JSON' and len(fault.detail) < 220
  assert 'xx", oh}yy' in fault.detail  # Where it is broken.


def typographic(pairs):
  inside = ', '.join(
    f'“{key}”: “{json.dumps(value)[1:-1]}”' for key, value in pairs.items()
  )
  return f'{{{inside}}}'


STYLES = {
  'json': json.dumps,
  'unicode': lambda pairs: json.dumps(pairs, ensure_ascii=False),
  'indented': lambda pairs: json.dumps(pairs, indent=2),
  'python': repr,
  'fence': lambda pairs: f'Sure!\n```json\n{json.dumps(pairs)}\n```\nDone.',
  'thinking': lambda pairs: f'<think>{{"question": </think>{pairs!r}',
  'comma': lambda pairs: json.dumps(pairs)[:-1] + ',}',
  'line breaks': lambda pairs: json.dumps(pairs).replace('\\n', '\n'),
  'no brace': lambda pairs: json.dumps(pairs)[:-1],
  'twice': lambda pairs: json.dumps(dict.fromkeys(pairs, 'x')) + repr(pairs),
  'typographic': typographic,
}


def values(but=''):
  """Texts without `but`, LaTeX's \\b, \\f and \\r, and the tags of thinking."""
  characters = st.characters(
    exclude_categories=('Cs',), exclude_characters='\b\f\r' + but
  )
  stripped = st.text(characters).map(str.strip)
  return stripped.filter(lambda value: value and 'think>' not in value)


# A backslash makes escapes with what follows it, if line breaks are replaced.
# Curly quotes end typographic strings.
VALUES = {'line breaks': values('\\'), 'typographic': values('“”‘’')}
PAIRS = st.fixed_dictionaries(dict.fromkeys(PAIR, values()))


@pytest.mark.parametrize('style', STYLES)
@hypothesis.settings(max_examples=60)
@hypothesis.given(data=st.data())
def test_what_is_written_in_any_style_is_read(style, data):
  some = VALUES.get(style, values())
  pairs = data.draw(st.fixed_dictionaries(dict.fromkeys(PAIR, some)))
  pairs |= data.draw(st.dictionaries(st.sampled_from(['a', 'b']), some))
  assert parse(STYLES[style](pairs), PAIR) == {x: pairs[x] for x in PAIR}


@hypothesis.given(PAIRS)
def test_a_reply_that_is_cut_anywhere_has_all_or_nothing(pairs):
  for style in (STYLES['json'], STYLES['python']):
    reply = style(pairs)
    for end in range(len(reply)):
      found = parse(reply[:end], PAIR)
      assert found == pairs or found.cause in ('cut off', 'no object')


PIECES = (
  '{', '}', '[', ']', ':', ',', '"', "'", '“', '”', '‘', '’', '\\', ' ', '\n',
  '"question"', '"answer": ', "'a'", '{"question": "', '5', 'null', 'None', 'x',
  '\\u', '\\ud800', '</think>', '```', '\ud800', '\x00', '\u2028', 'Y',
)  # fmt: skip


@hypothesis.settings(max_examples=300)
@hypothesis.given(st.lists(st.sampled_from(PIECES), max_size=30).map(''.join))
def test_any_text_has_the_fields_or_a_cause(reply):
  causes = ('no object', 'cut off', 'not JSON')
  found = read(reply)
  if isinstance(found, tuple):
    assert all(found)
    assert ''.join(found).encode()  # UTF-8 can hold it.
  else:
    assert found in causes or re.match(
      '(no field )?(question|answer)( is (empty|not a text))?', found
    )


HOSTILE = (
  '{', '\\', '"', "'", '“', '[', '{"', '{“', "{'x", '{"a":', '{"a":[',
  '{"a":"', '{"a":"\\', '{"question":1}', '{"question":', "{'a'", '{ ',
  '{"question":"x"', '{"question":x ', '{"a":5 ',
)  # fmt: skip


@pytest.mark.parametrize('piece', HOSTILE)
def test_steps_are_linear_in_the_reply(piece, monkeypatch):
  """Counts the characters that are looked at or copied, not the time."""
  steps = []

  def shown(value):
    steps.append(len(value))
    return value

  monkeypatch.setattr(json_replies, 'shown', shown)
  for name in ('_VISIBLE', '_WORD', '_START', '_STOP'):
    monkeypatch.setattr(json_replies, name, Counted(name, steps))
  for reply in (piece * 400, '{"a":"' + piece * 400, piece * 400 + '}' * 400):
    steps.clear()
    parse(reply, PAIR)
    assert sum(steps) <= 120 * len(reply) + 1000


class Counted:
  """A pattern that notes how many characters it has looked at."""

  def __init__(self, name, steps):
    self.pattern = getattr(json_replies, name)
    self.steps = steps

  def search(self, reply, start=0):
    return self._noted(self.pattern.search(reply, start), reply, start)

  def match(self, reply, start):
    return self._noted(self.pattern.match(reply, start), reply, start, 60)

  def finditer(self, reply, start, end):
    for match in self.pattern.finditer(reply, start, end):
      self._noted(match, reply, start)
      start = match.end()
      yield match
    self._noted(None, reply[:end], start)

  def _noted(self, match, reply, start, most=None):
    end = len(reply) if match is None else match.end()
    self.steps.append(min(end - start, most or end) + 1)
    return match


@pytest.mark.parametrize(
  'reply',
  [
    *(piece * 1_000_000 for piece in '{\\"'),
    '{"question":' * 100_000,
    '{"question":' * 100_000 + '1' + '}' * 100_000,
    '{"question":[' + '[' * 100_000 + ']' * 100_000,
  ],
  ids=('brace', 'backslash', 'quote', 'open', 'closed', 'list'),
)
def test_a_long_or_deep_reply_is_no_trouble(reply):
  assert isinstance(parse(reply, PAIR), Fault)
