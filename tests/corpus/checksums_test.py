import pytest

from rlpt_jax.corpus import checksums

CHECKED = [
  (checksums.luhn, '4111111111111111'),
  (checksums.luhn, '378282246310005'),
  (checksums.luhn, '30569309025904'),
  # Samples of the registry, one with letters.
  (checksums.iban, 'DE89370400440532013000'),
  (checksums.iban, 'GB29NWBK60161331926819'),
  (checksums.iban, 'MT84MALT011000012345MTLCAST001S'),
  (checksums.iban, 'NO9386011117947'),
  # The first address ever paid, one of several keys, BIP 173 and BIP 350.
  (checksums.base58, '1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa'),
  (checksums.base58, '3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy'),
  (checksums.bech32, 'bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4'),
  (
    checksums.bech32,
    'bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0',
  ),
]


@pytest.mark.parametrize(('check', 'number'), CHECKED)
def test_a_wrong_character_is_noticed_wherever_it_is(check, number):
  assert check(number)
  first = {checksums.bech32: 3}.get(check, 0)
  for i in range(first, len(number)):
    wrong = '3' if number[i] != '3' else '2'
    assert not check(number[:i] + wrong + number[i + 1 :]), i


def test_an_iban_has_the_length_of_its_country():
  # With the right rest, and a digit too few for Germany.
  assert not checksums.iban('DE5137040044053201300')
  assert not checksums.iban('XX89370400440532013000')
  assert not checksums.iban('')
  assert {*map(len, checksums.IBAN_LENGTHS)} == {2}


def test_the_largest_number_is_no_address():
  assert not checksums.base58('3' + 'z' * 34)
