"""Checksums of numbers that carry one: payment cards, IBANs and Bitcoin."""

import hashlib

# Characters of an IBAN by country, from the registry of ISO 13616.
IBAN_LENGTHS = {
  pair[:2]: int(pair[3:])
  for pair in """
  AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21
  CR:22 CY:28 CZ:24 DE:22 DJ:27 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18
  FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HN:28 HR:21 HU:28 IE:22 IL:23 IQ:23
  IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27
  MD:24 ME:22 MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18 NO:15 OM:23 PK:24 PL:28
  PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24 SC:31 SD:18 SE:24 SI:19 SK:24 SM:27
  SO:23 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 YE:30
  """.split()
}
_BASE58 = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
_BECH32 = 'qpzry9x8gf2tvdw0s3jn54khce6mua7l'
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def luhn(digits: str) -> bool:
  """Returns whether the last digit checks the others, as on payment cards."""
  total = 0
  for i, digit in enumerate(reversed(digits)):
    doubled = int(digit) * (1 + i % 2)
    total += doubled - 9 * (doubled > 9)
  return total % 10 == 0


def iban(text: str) -> bool:
  """Returns whether a text without separators is an IBAN."""
  length = IBAN_LENGTHS.get(text[:2])
  if length is None or len(text) != length:
    return False
  # Letters stand for 10 to 35; the country and its check digits go last.
  digits = ''.join(str(int(letter, 36)) for letter in text[4:] + text[:4])
  return int(digits) % 97 == 1


def base58(text: str) -> bool:
  """Returns whether an old Bitcoin address, 1... or 3..., has its checksum."""
  number = 0
  for letter in text:
    number = number * 58 + _BASE58.index(letter)
  if number >= 256**25:
    return False
  data = number.to_bytes(25)
  digest = hashlib.sha256(hashlib.sha256(data[:21]).digest()).digest()
  return data[21:] == digest[:4]


def bech32(text: str) -> bool:
  """Returns whether a new Bitcoin address, bc1..., has its checksum.

  The checksum is that of bech32 or bech32m (BIP 173 and BIP 350).
  """
  values = [3, 3, 0, 2, 3]  # 'bc', as the checksum sees it.
  values += [_BECH32.index(letter) for letter in text.removeprefix('bc1')]
  check = 1
  for value in values:
    top = check >> 25
    check = (check & 0x1FFFFFF) << 5 ^ value
    for i, factor in enumerate(_GENERATOR):
      check ^= factor if top >> i & 1 else 0
  return check in (1, 0x2BC830A3)
