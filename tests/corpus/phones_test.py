import sys

import pytest

from rlpt_jax.corpus import phones


def found(text: str, *regions: str) -> list[str]:
  regions = regions or ('US', 'GB')
  return [text[start:end] for start, end in phones.find(text, regions)]


@pytest.mark.parametrize(
  'number',
  [
    '+44 20 7946 0123', '+442079460123', '+49 (0)30 23125-012',
    '0044 20 7946 0123', '(202) 555-0143', '202-555-0143', '202.555.0143',
    '202–555–0143', '402/555-0107', '1-800-555-0199', '1 (202) 555-0143',
    '020 7946 0123', '(020) 7946 0123', '07400 123456',
  ],
)  # fmt: skip
def test_a_number_is_found_without_a_word(number):
  for text in (number, f'Ann, {number}.', f'a\n{number}\nb', f'x,{number};'):
    assert found(text) == [number]


@pytest.mark.parametrize(
  'text',
  [
    'Tel. {}', 'Phone: {}', 'phone number is {}', 'call me at {}', 'Fax {}',
    'Call Dana {} after 6', '"phone": "{}"', 'Tél. : {}', 'cell {}',
  ],
)  # fmt: skip
@pytest.mark.parametrize(
  'number', ['2025550143', '202 555 0143', '555-0143', '089 99998 302']
)
def test_after_a_word_many_forms_are_numbers(text, number):
  assert found(text.format(number)) == [number]
  assert found(f'Room {number}') == []


def test_a_word_holds_for_the_numbers_that_follow():
  assert found('Tel. 89 99998 301 / 89 99998 302') == [
    '89 99998 301', '89 99998 302',
  ]  # fmt: skip
  assert found('Tel. 89 99998 301, room 89 99998 302') == ['89 99998 301']


@pytest.mark.parametrize(
  'text',
  [
    '1990-1995, 2001-2002', 'call 2001-2002', 'tel 12.05.2003',
    'phone 2003-05-12', '1.410 570 5830 e-26', '206.768 2843',
    'DFARS 252.227-7014', '100-200-3000', '$202-555-0143', '#202-555-0143',
    'x202-555-0143', '202-555-0143-7', '202-555-01437', '8/202-555-0143',
    '0.2025550143', 'call(2025550143)', 'tel 0.14285714', '+1234567890123456',
    'x+442079460123', '020 794 609 58 11', '02 07 94 60 95 8', '020 7946 012',
    'phone 1,234,567', 'microphone 2025550143', '119-555-0143',
    'tel 134 (2017 x', '02 079 46 09 58',
  ],
)  # fmt: skip
def test_what_only_looks_like_one_is_not_found(text):
  assert found(text) == []


def test_an_international_number_ends_where_it_is_valid():
  assert found('+1 202 555 0143 12 May') == ['+1 202 555 0143']
  assert found('0044 20 7946 0123 2 x') == ['0044 20 7946 0123']


def test_regions_decide_what_is_national():
  assert found('01 99 00 12 34') == []
  assert found('01 99 00 12 34', 'FR') == ['01 99 00 12 34']
  assert found('202-555-0143', 'FR') == []


def test_without_the_library_an_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'phonenumbers', None)
  phones._library.cache_clear()
  try:
    with pytest.raises(ValueError, match=r'rlpt_jax\[corpus\].*or kinds with'):
      phones.unknown(['US'])
  finally:
    phones._library.cache_clear()


def test_unknown_regions_are_returned():
  assert phones.unknown(['US', 'EN']) == ['EN']
