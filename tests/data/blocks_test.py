import pytest

from rlpt_jax.data import blocks

# A row of '%%%' is where a block ends.
TABLE = {
  'paragraphs': 'One\n\n%%%Two\n \n%%%Three',
  'headings': '# One\n%%%Two\n%%%== Three ==\n%%% = = Four = = \n%%%Five',
  'underlined headings': 'One\n===\n\n%%%Two\n---\n%%%Three',
  'a long line above dashes': 'It was so.'
  + 9 * ' It was so.'
  + '\n%%%---\n%%%Two',
  'dashes': 'One\n\n%%%---\n%%%* * *\n\n%%%Two',
  'lists': '- One\n%%%- two\n%%%* Three\n  goes on, as it is long enough\n',
  'numbered': '1. One\n%%%2. two\n%%%(a) three\n%%%b) four\n%%%iv. five',
  'tables': 'One\n%%%| a | b |\n|---|---|\n%%%| c | d |\n%%%Two',
  'fences': 'One\n%%%```py\nx\n\n```x\n# y\n```\n%%%~~~\n```\n~~~\n%%%Two',
  'long fences': '````\n```\n\n````\n%%%One',
  'open fences': '```\nOne\ntwo\n\n%%%Three\n\n%%%~~~\nFour',
  'indented code': 'One:\n\n%%%    a = 1\n\n    b = 2\n\n%%%Two',
  'indented prose': '    One is here.\n\n%%%    Two is here.\n',
  'indented paragraphs': (
    "\tIt cost us $80 to mend, and (he says) it is `` as good as new . ''\n\n"
    '%%%\t(Nobody cared.)\n\n%%%\tSo we paid the $80, and went\n\n'
    '%%%\tOf those of us that knew that a = b at the time, few said so to the '
    'others who were with us in the room;\n\n'
    '%%%\tWe left. They said:'
  ),
  'quotations': (
    'In the letter of the fifth of May\n%%%> he wrote so\n>\n%%%> Two\n'
    '%%%>> Three\n%%%Four'
  ),
  'wrapped': (
    'It was nearly dark when the coach, which had been delayed at the\n'
    'ford by the floods of the preceding week, set down two of them at\n'
    'Dunmore, where they stood and looked at the light in the porch of the\n'
    'inn.\n%%%A short line\n%%%Another'
  ),
  'not wrapped': (
    'She buys ten eggs and twenty rolls for 12 + 20 = 32 dollars\n'
    '%%%Together this is more than what she has with her that day\n'
    '%%%So she goes home'
  ),
  'ingredients': 'flour\n%%%sugar\n%%%two large eggs',
  'speakers': 'Ann: are you there?\n%%%Ben: yes, and I have been for an hour\n',
  'formulas': 'One\n\\begin{align}\nx\n\\end{align}\nor $$\nx\n$$\n%%%Two',
  'a formula by itself': 'One\n\n%%%\\[\n x\n\\]\n\n%%%Two',
  'no formula': 'It costs $$ or so\n\n%%%and $$ is too much\n',
}


@pytest.mark.parametrize('name', TABLE)
def test_layout(name):
  parts = TABLE[name].split('%%%')
  text = ''.join(parts)
  found = [text[start:end] for start, end, _ in blocks.blocks(text)]
  assert found == parts


def test_blank_lines_in_front_belong_to_the_first_block():
  assert blocks.blocks(' \n\nOne') == [(0, 6, False)]


def test_what_is_whole():
  text = '# A. B\nC. D\n\n    e = F. 1\n\n```\nG. H\n```\n| I. | J |\n'
  whole = [
    text[start:end] for start, end, whole in blocks.blocks(text) if whole
  ]
  assert len(whole) == 4
  assert 'C. D\n\n' not in whole


def test_formulas():
  text = 'a $$b$$ c \\[d\\] \\\\[2pt] \\begin{align*}e\\end{align*} $$f\n\n$$'
  found = [text[start:end] for start, end in blocks.formulas(text)]
  assert found == ['$$b$$', '\\[d\\]', '\\begin{align*}e\\end{align*}']


def test_the_empty_text_has_no_blocks():
  assert blocks.blocks('') == []
  assert blocks.blocks(' \n\n') == [(0, 3, True)]
