"""Text of growing tokens: as of the whole, and nothing of a stop string."""

import io

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st

from rlpt_jax.core.tokenizer import ByteTokenizer, SentencePieceTokenizer
from rlpt_jax.sampling.text import Piece, Transcript, lead
from tests.serving.toy import EOS, completion

BYTES = ByteTokenizer()
quick = hypothesis.settings(max_examples=150)


@pytest.fixture(scope='module')
def pieces(tmp_path_factory):
  """SentencePiece with byte fallback, trained on a little."""
  path = tmp_path_factory.mktemp('spm') / 'tokenizer.model'
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['the ship left at dawn and the wind came'] * 50),
    model_writer=model, vocab_size=290, byte_fallback=True,
    hard_vocab_limit=False, minloglevel=2,
  )  # fmt: skip
  path.write_bytes(model.getvalue())
  return SentencePieceTokenizer(path)


def _said(tokenizer, ids, sizes, prompt=(), reason='stop', **options):
  """What a transcript says of ids that come in chunks of the given sizes."""
  transcript = Transcript(tokenizer, prompt, **options)
  said, first = [], 0
  while not transcript.finished:
    size = sizes[len(said) % len(sizes)]
    is_last = first + size >= len(ids)
    part = completion(ids[first : first + size], reason if is_last else None)
    said.append(transcript.add(part))
    first += size
  return said, transcript


def _text(said):
  return ''.join(piece.text for piece in said)


def test_a_character_of_several_tokens_comes_whole():
  ids = [*'é😀x'.encode(), EOS]
  said, _ = _said(BYTES, ids, [1])
  assert [piece.text for piece in said] == [
    '', 'é', '', '', '', '😀', 'x', '',
  ]  # fmt: skip


def test_what_is_no_character_comes_at_the_end():
  said, _ = _said(BYTES, [0x61, 0xE2, 0x82], [1], reason='length')
  assert [piece.text for piece in said] == ['a', '', '\ufffd']
  assert said[-1].finish_reason == 'length'


def test_an_end_without_tokens_gives_what_was_held_back():
  transcript = Transcript(BYTES, ())
  assert transcript.add(completion([0xE2])) == Piece('')
  piece = transcript.add(completion([], 'length'))
  assert piece == Piece('\ufffd', (), 'length')


# Without 0xED: of surrogates, the byte tokenizer says one thing alone and
# another beside what is no UTF-8.
@quick
@hypothesis.given(
  ids=st.lists(st.integers(0, 255).filter(lambda i: i != 0xED), min_size=1),
  sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
  by_token=st.booleans(),
)
def test_any_bytes_in_any_pieces_are_their_text(ids, sizes, by_token):
  said, transcript = _said(BYTES, ids, sizes, with_tokens=by_token)
  assert _text(said) == BYTES.decode(ids)
  assert transcript.num_tokens == len(ids)


@quick
@hypothesis.given(
  text=st.text(alphabet='abc thé 😀', min_size=1, max_size=20),
  sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
  by_token=st.booleans(),
)
def test_sentencepiece_in_any_pieces_is_its_text(text, sizes, by_token, pieces):
  ids = pieces.encode(text)
  hypothesis.assume(ids)
  said, _ = _said(pieces, ids, sizes, with_tokens=by_token)
  assert _text(said) == pieces.decode(ids)


def test_the_blank_after_a_prompt_is_there(pieces):
  ids = pieces.encode('the ship left')
  before, after = ids[:-2], ids[-2:]
  said, _ = _said(pieces, after, [1], prompt=tuple(before))
  assert pieces.decode(before) + _text(said) == 'the ship left'


def test_the_lead_is_the_fewest_tokens_that_are_text():
  assert lead(BYTES, tuple(b'abc')) == [ord('c')]
  assert lead(BYTES, tuple('aé'.encode())) == list('é'.encode())
  assert lead(BYTES, (0x61, EOS)) == [0x61, EOS]
  assert lead(BYTES, (EOS,) * 6) == []
  assert lead(BYTES, ()) == []


@pytest.mark.parametrize('size', [1, 2, 3, 50])
def test_the_text_ends_before_the_first_stop_string(size):
  ids = [*b'one two three four', EOS]
  stops = ('three', 'two t', 'four')
  said, transcript = _said(BYTES, ids, [size], stops=stops)
  assert _text(said) == 'one '
  assert said[-1].finish_reason == 'stop'
  # 'one two t' has nine tokens, whatever came in the same chunk.
  assert transcript.num_tokens == 9


@pytest.mark.parametrize('stops', [('b', 'ab'), ('ab', 'b')])
def test_of_stop_strings_that_end_together_the_longest_counts(stops):
  said, _ = _said(BYTES, list(b'xab'), [1], stops=stops)
  assert _text(said) == 'x'


def test_what_may_begin_a_stop_string_waits():
  transcript = Transcript(BYTES, (), stops=('</a>', 'END'))
  texts = [
    transcript.add(completion(list(part))).text
    for part in (b'x <', b'/', b'b></', b'a E', b'N')
  ]
  assert texts == ['x ', '', '</b>', '</a ', '']
  assert transcript.add(completion([EOS], 'stop')).text == 'EN'


@quick
@hypothesis.given(
  text=st.text(alphabet='abé', max_size=12),
  stops=st.lists(st.text(alphabet='abé', min_size=1, max_size=4), max_size=4),
  sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
  with_tokens=st.booleans(),
)
def test_stop_strings_in_any_pieces(text, stops, sizes, with_tokens):
  ids = [*text.encode(), EOS]
  said, _ = _said(
    BYTES, ids, sizes, stops=tuple(stops), with_tokens=with_tokens
  )
  # The one that is complete first; of those, the one that begins first.
  ends = [text[:i] for i in range(len(text) + 1)]
  first = next((e for e in ends if any(s in e for s in stops)), None)
  if first is None:
    assert _text(said) == text
  else:
    cut = min(first.find(s) for s in stops if s in first)
    assert _text(said) == first[:cut]


@pytest.mark.parametrize('size', [1, 2, 50])
def test_tokens_come_with_their_text(size):
  ids = [*'aé STOP'.encode(), EOS]
  said, _ = _said(BYTES, ids, [size], stops=('STOP',), with_tokens=True)
  tokens = [token for piece in said for token in piece.tokens]
  # Both tokens of é begin where it does. Those of the stop string are not said.
  assert [token.id for token in tokens] == ids[:4]
  assert [token.offset for token in tokens] == [0, 1, 1, 2]
  assert tokens[0].logprob == pytest.approx(-0.97)
  for i in range(len(said)):
    so_far = said[: i + 1]
    sent = [token for piece in so_far for token in piece.tokens]
    assert sent == [t for t in tokens if t.offset < len(_text(so_far))]


def test_the_token_that_ends_a_text_belongs_to_it():
  said, _ = _said(BYTES, [*b'ab', EOS], [2], with_tokens=True)
  assert [t.id for t in said[-1].tokens] == [EOS]


def test_a_long_text_takes_no_longer_a_token():
  class Counting(ByteTokenizer):
    decoded = 0

    def decode(self, ids, **options):
      self.decoded += len(ids)
      return super().decode(ids, **options)

  tokenizer = Counting()
  _said(tokenizer, list(b'ab' * 2000), [8])
  assert tokenizer.decoded < 4 * 4000


@pytest.mark.parametrize('size', [1, 5, 16, 32, 40])
def test_long_runs_of_wide_characters_survive_any_chunks(size):
  text = '中' * 60 + 'a' + '🙂' * 40
  ids = list(text.encode())
  transcript, said = Transcript(BYTES, (120,)), ''
  for first in range(0, len(ids), size):
    last = first + size >= len(ids)
    part = completion(ids[first : first + size], 'length' if last else None)
    said += transcript.add(part).text
  assert said == text
