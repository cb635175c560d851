import pytest

from rlpt_jax.corpus import emails


def found(text: str) -> list[str]:
  return [text[start:end] for start, end in emails.find(text)]


@pytest.mark.parametrize(
  'address',
  [
    'ann@example.org', 'a.b+c@x-y.example.co.uk', "o'brien@example.ie",
    'ANN@EXAMPLE.COM', 'jürgen@müller.example.de', 'ann [at] example [dot] org',
    'ann(at)example.org', 'ann {AT} example.org', 'ann AT example DOT se',
    'ann at example dot com',
  ],
)  # fmt: skip
def test_an_address_is_found_as_a_whole(address):
  for text in (address, f'<{address}>', f"Ask '{address}'.", f'm={address}, x'):
    assert found(text) == [address]


@pytest.mark.parametrize(
  'text',
  [
    'y = w@x.T', 'a@b.to(device)', 'logo@2x.png', 'img@sha256.ab12', 'x@',
    '@ann', '@ann.org', 'ann@localhost', 'git@github.com:a/b.git',
    'react@18.2.0', 'sat [at] the table', '(at) last', 'at the dot com boom',
    'he at the dot com', 'meet AT Example', 'ann@example.zzzz',
  ],
)  # fmt: skip
def test_what_only_looks_like_one_is_not_found(text):
  assert found(text) == []


def test_the_next_sentence_is_not_part_of_the_address():
  assert found('Write to ann@example.org.Then wait.') == ['ann@example.org']
  assert found('ann [at] example.org. So') == ['ann [at] example.org']
  assert found('ann@example.org请') == ['ann@example.org']
