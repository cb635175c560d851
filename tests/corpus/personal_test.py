"""Golden passages, of which half were not looked at while the rules were made.

Data in them are invented, reserved for examples, or published as samples. Keys
are broken by ¦, so that scanners of repositories do not take them for real.
"""

import collections
import functools
import pathlib
import pickle
import re
import sys
import types

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt_jax.core import checks
from rlpt_jax.corpus import emails, personal, phones
from rlpt_jax.corpus.documents import Document
from tests import linear, regex_steps

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
# half: kind: (spans, spans found, finds, right finds). Renew them if a find
# that is new or gone is as it should be.
FIGURES = {
  'dev': {'phone': (56, 54, 54, 54)},
  'heldout': {'phone': (48, 44, 45, 44)},
}
BY_PLACEHOLDER = {
  kind.placeholder: name for name, kind in personal.KINDS.items()
}
mask = personal.Mask()


@functools.cache
def passages(half: str) -> list[tuple[str, str, list[tuple[str, int, int]]]]:
  """(title, text, spans) of each passage; a span is marked ⟦EMAIL a@b.org⟧."""
  raw = (GOLDEN / f'personal_{half}.txt').read_text(encoding='utf-8')
  found = []
  for passage in raw.replace('¦', '').split('@@@ ')[1:]:
    title, _, marked = passage.partition('\n')
    text, spans = '', []
    for piece in re.split(r'(⟦[A-Z]+ [^⟧]*⟧)', marked.rstrip('\n')):
      if piece.startswith('⟦'):
        name, _, piece = piece[1:-1].partition(' ')
        kind = BY_PLACEHOLDER[f'[{name}]']
        spans.append((kind, len(text), len(text) + len(piece)))
      text += piece
    found.append((title, text, spans))
  return found


@pytest.mark.parametrize('half', FIGURES)
def test_precision_and_recall_of_golden_passages(half, capsys):
  counts = collections.defaultdict(lambda: [0, 0, 0, 0])
  for _, text, spans in passages(half):
    finds = mask.finds(text)
    for kind, start, end in spans:
      covered = any(k == kind and s <= start and end <= e for k, s, e in finds)
      counts[kind][0] += 1
      counts[kind][1] += covered
    for kind, start, end in finds:
      right = any(k == kind and s < end and start < e for k, s, e in spans)
      counts[kind][2] += 1
      counts[kind][3] += right
  with capsys.disabled():
    for kind, (spans, recalled, finds, right) in sorted(counts.items()):
      print(
        f'\n{half} {kind}: {spans} spans, recall {recalled / spans:.3f}, '
        f'precision {right / finds:.3f}', end='',
      )  # fmt: skip
  assert counts.keys() == personal.KINDS.keys()
  for kind, found in counts.items():
    expected = FIGURES[half].get(kind, (found[0],) * 4)
    assert tuple(found) == expected, kind


def test_there_are_as_many_golden_passages_as_we_say():
  both = passages('dev') + passages('heldout')
  without = [title for title, _, spans in both if not spans]
  assert all(title.startswith('no personal data') for title in without)
  assert (len(both), len(without)) == (241, 91)
  assert sum(len(spans) for _, _, spans in both) == 243


@pytest.mark.parametrize('half', FIGURES)
def test_hints_leave_out_no_find(half, monkeypatch):
  texts = [text for _, text, _ in passages(half)]
  with_hints = [mask.finds(text) for text in texts]
  monkeypatch.setattr(personal, '_lines', lambda text: [(0, len(text))])
  assert with_hints == [mask.finds(text) for text in texts]
  # Between other lines, the same is found elsewhere.
  monkeypatch.undo()
  for text, finds in zip(texts, with_hints, strict=True):
    moved = [(kind, start + 2, end + 2) for kind, start, end in finds]
    assert mask.finds(f'a\n{text}\nb\n') == moved


def test_finds_become_placeholders_and_edits():
  text = 'Ann (ann@example.org, 202-555-0143) was here.'
  after = mask(Document('d', text))
  assert after.text == 'Ann ([EMAIL], [PHONE]) was here.'
  assert [edit[:2] for edit in after.edits] == [('e-mail', 5), ('phone', 22)]
  nothing = Document('d', 'Ann was here.')
  assert mask(nothing) is nothing


def test_edits_show_part_of_a_find_or_all_of_it():
  document = Document('d', 'Ann, ann@example.org')
  (edit,) = mask(document).edits
  assert edit.before == 'an•@•••••••.•••'
  (edit,) = personal.Mask(show=personal.wholly)(document).edits
  assert edit.before == 'ann@example.org'


def test_only_the_chosen_kinds_are_masked():
  document = Document('d', 'ann@example.org 202-555-0143')
  only = personal.Mask(kinds=('phone',), placeholders={'phone': '<tel>'})
  assert only(document).text == 'ann@example.org <tel>'


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'kinds': ('name',)}, "kinds='name': expected one of key, login, e-mail"),
    ({'placeholders': {'mail': 'x'}}, "placeholders='mail': expected one of"),
    ({'regions': ('UK',)}, "regions='UK': expected countries such as 'US'"),
  ],
)
def test_wrong_settings_are_named(settings, message):
  with pytest.raises(checks.SettingError, match=re.escape(message)):
    personal.Mask(**settings)


def test_a_login_leaves_its_address():
  document = Document('d', 'at https://ann:pw1@git.example.org/x.git now')
  assert mask(document).text == 'at https://[LOGIN]@git.example.org/x.git now'
  for template in ('https://user:password@example.org', 'http://%s:%s@x.org'):
    assert 'login' not in {kind for kind, _, _ in mask.finds(template)}


@pytest.mark.parametrize(
  ('text', 'kinds'),
  [
    ('from 203.0.113.7:80 to 10.0.0.1', ['IP address']),
    ('from 2001:db8::1. It', ['IP address']),
    ('at 2001:db8::1: no', ['IP address']),
    ('route 2001:db8::/32, 81.2.69.0/24', []),
    ('update V8 to 9.7.106.18', []),
    ('wheel >= 9.3.0.75', []),
    ('OID 2.5.4.43, 1.3.101.110', []),
    ('Chrome/120.0.0.0', []),
    ('81.2.69.142.7, 81.2.69, 081.2.69.142', []),
    ('MAC 01-02-03-04-05-06, ff:ff:ff:ff:ff:ff', []),
    ('MAC 01-02-03-04-05-0a', ['MAC address']),
    ('01-02-03-04-05-0a-0b', []),
    ('ad-be-ef-ca-fe-ed', ['MAC address']),
    ('ad:be:ef:ca:fe:ed', ['MAC address']),
    ('aabb.ccdd.ee0f', ['MAC address']),
    ('SSN 123 45 6788', ['SSN']),
    ('row 123 45 6788, 123456788', []),
    ('Ann 123-45-6788', ['SSN']),
    ('part no. 123-45-6788', []),
    ('666-45-6788 000-45-6788 912-45-6788 123-00-6788 123-45-0000', []),
    ('4111 1111 1111 1111 09/27', ['card']),
    ('4111 1111 1111 1111 1234', []),
    ('/4111111111111111', []),
    ('4111111111111112', []),
    ('5000 0000 0000 0009', []),  # Of no issuer.
    ('IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF', ['IBAN']),
    ('DE89 3704 0044 0532 0130 001', []),
    ('1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb', []),
    ('is ey' + 'JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl', ['key']),
    ('-----BEGIN PRIVATE KEY-----, -----END PRIVATE KEY-----', []),
  ],
)
def test_rules(text, kinds):
  assert [kind for kind, _, _ in mask.finds(text)] == kinds


UNITS = (
  '1', '@', 'a.', 'a@', '1 ', '(', '(1', '+', '12:', '2001:', 'aa:', '[at]',
  'a at b dot com ', '4111', 'sk-', 'eyJaaaaaaaaaaaa.', '://a:', 'bc1q', 'GB29',
  '-----BEGIN PRIVATE KEY-----\n', '0', '(0)', '00', 'tel ', 'Call Ann ', '1.',
)  # fmt: skip


@pytest.mark.parametrize('unit', UNITS)
def test_a_long_text_takes_linear_time(unit):
  text = f'@a.b bc1 {unit * (300_000 // len(unit))}!'
  with linear.ends_soon():
    mask.finds(text)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
  st.lists(
    st.sampled_from(
      [*UNITS, ' ', '\n', '\ud800', '١', '٢٠٢-٥٥٥-٠١٤٣', 'é', '-']
    )
    | st.sampled_from([text for _, text, _ in passages('dev')])
    | st.characters(exclude_categories=()),
    max_size=8,
  ).map(''.join)
)
def test_any_text_is_masked_where_its_edits_say(text):
  after = mask(Document('d', text))
  end = 0
  for edit in after.edits:
    assert edit.start >= end
    end = edit.start + len(edit.before)
  whole = personal.Mask(show=personal.wholly)(Document('d', text))
  assert whole.text == after.text
  for edit in whole.edits:
    assert text.startswith(edit.before, edit.start)


def patterns():
  for module in (emails, personal, phones):
    for name, value in vars(module).items():
      if isinstance(value, re.Pattern):
        yield pytest.param(value, id=f'{module.__name__.split(".")[-1]}.{name}')


# A step is a character that is looked at.
MOST_STEPS = 80  # For each character.


@pytest.mark.parametrize('pattern', patterns())
def test_a_pattern_takes_steps_linear_in_the_text(pattern):
  matcher = regex_steps.Matcher(pattern)
  for text in dict.fromkeys(regex_steps.worst_texts(pattern, 600)):
    matcher.places(text, most=MOST_STEPS * len(text))


class FakeModel:
  """Finds every Ann, a person, and every Oslo, which is none."""

  def __call__(self, text):
    assert len(text) <= 30
    text.encode()  # Fails for a surrogate, as spaCy does.
    ents = [
      types.SimpleNamespace(
        text=found[0], start_char=found.start(), end_char=found.end(),
        label_='PERSON' if found[0] == 'Ann' else 'GPE',
      )
      for found in re.finditer('Ann|Oslo', text)
    ]  # fmt: skip
    return types.SimpleNamespace(ents=ents)


@pytest.fixture
def spacy(monkeypatch):
  def load(name, exclude):
    del exclude
    if name != 'en_core_web_sm':
      raise OSError(name)
    return FakeModel()

  monkeypatch.setitem(sys.modules, 'spacy', types.SimpleNamespace(load=load))
  personal._model.cache_clear()
  yield
  personal._model.cache_clear()


def test_names_are_those_of_the_model(spacy):
  names = personal.MaskNames(piece=30)
  after = names(Document('d', 'Ann met Ann in Oslo. ' * 9))
  assert after.text == '[NAME] met [NAME] in Oslo. ' * 9
  assert after.edits[2] == ('name', 21, 'An•', '[NAME]')
  assert names(Document('d', '')).text == ''
  assert names(Document('d', 'a' * 100)).text == 'a' * 100
  assert names(Document('d', '\ud800Ann')).text == '\ud800[NAME]'


def test_without_a_model_an_error_says_what_to_install(spacy, monkeypatch):
  with pytest.raises(ValueError, match='python -m spacy download xx'):
    personal.MaskNames(model='xx')(Document('d', 'Ann'))
  monkeypatch.setitem(sys.modules, 'spacy', None)
  with pytest.raises(ValueError, match='needs `pip install spacy`'):
    personal.MaskNames()(Document('d', 'Ann'))


def test_stages_are_pickled_to_workers():
  for stage in (mask, personal.MaskNames()):
    assert pickle.loads(pickle.dumps(stage)) == stage
