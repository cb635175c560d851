import itertools
import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt_jax.core import tokenizer as tokenizers
from rlpt_jax.data import segment
from tests.linear import ends_soon

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
# What the rules look for, to be found next to each other more often.
PIECES = [
  *'aI5.?!…。」"\'“”()[]>|#=-*`~$\\:,; \t\n\r中é\x1c\u3000',
  *[
    '\n\n',
    '\n```',
    '$$',
    '\\[',
    '\\]',
    '\n> ',
    '\n- ',
    '\n1. ',
    '\n    x',
    'Dr.',
  ],
  *[
    '\\begin{align}',
    '\\end{align}',
    ' . ',
    ' the ',
    ' The ',
    '\n===',
    '\n| a |',
  ],
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map(''.join))


def pieces(text: str, ends: list[int]) -> list[str]:
  return [text[a:b] for a, b in itertools.pairwise([0, *ends])]


def sentences(text: str) -> list[str]:
  return [piece.strip() for piece in pieces(text, segment.sentences(text))]


def check_tiling(text: str, ends: list[int]):
  assert ends == sorted(set(ends))
  assert ends[-1:] == ([len(text)] if text else [])
  found = pieces(text, ends)
  assert ''.join(found) == text
  if text.strip():
    assert all(piece.strip() for piece in found)
    for above, below in itertools.pairwise(found):
      # White space up to the last line break goes with what is before it.
      blanks = below[: len(below) - len(below.lstrip())]
      assert '\n' not in blanks
      assert above[-1] == '\n' or not above[-1].isspace()


@hypothesis.given(TEXTS)
@hypothesis.settings(max_examples=500)
def test_any_text_is_tiled(text):
  check_tiling(text, segment.sentences(text))
  check_tiling(text, segment.sentences(text, language='none'))
  check_tiling(text, segment.paragraphs(text))


@hypothesis.given(TEXTS, st.integers(1, 20))
def test_any_text_is_tiled_by_tokens(text, size):
  tokenizer = tokenizers.ByteTokenizer()
  ends = segment.tokens(text, tokenizer=tokenizer, size=size)
  check_tiling(text, ends)
  for piece in pieces(text, ends):
    # One character and the white space around it cannot be cut.
    if len(piece.strip()) > 1 and piece == piece.strip():
      assert len(tokenizer.encode(piece)) <= size


@hypothesis.given(TEXTS)
def test_a_sentence_is_inside_a_paragraph(text):
  assert set(segment.paragraphs(text)) <= set(segment.sentences(text))


def read_golden(name: str) -> list[tuple[str, str, list[int]]]:
  """(title, text, where '⏎' marks the end of a segment) of each document."""
  documents = []
  for document in (GOLDEN / name).read_text().split('@@@ ')[1:]:
    title, _, marked = document.partition('\n')
    parts = marked.split('⏎')
    ends = list(itertools.accumulate(map(len, parts)))[:-1]
    documents.append((title, ''.join(parts), ends))
  return documents


def without_blanks(text: str, ends: list[int]) -> set[int]:
  """Ends as counts of other characters; the end of the document is none."""
  inner = {len(''.join(text[:end].split())) for end in ends}
  return inner - {len(''.join(text.split()))}


def test_f1_on_the_golden_files():
  total = [0, 0, 0]
  for name in (
    'segments_dev.txt',
    'segments_heldout.txt',
    'segments2_dev.txt',
    'segments2_heldout.txt',
  ):
    right, extra, missed = 0, 0, 0
    for title, text, gold in read_golden(name):
      gold = without_blanks(text, gold)
      found = without_blanks(text, segment.sentences(text))
      right += len(gold & found)
      extra += len(found - gold)
      missed += len(gold - found)
      if gold != found:
        print(f'{name}, {title}: {len(found - gold)} extra, ', end='')
        print(f'{len(gold - found)} missed')
    counts = [right, extra, missed]
    total = [a + b for a, b in zip(total, counts, strict=True)]
    for what, (right, extra, missed) in ((name, counts), ('both', total)):
      f1 = 2 * right / (2 * right + extra + missed)
      print(f'{what}: boundary F1 {f1:.4f} of {right + missed} boundaries')
      assert f1 >= 0.98
  assert total[0] + total[2] >= 1000


# ' | ' is where a sentence ends.
TABLE = """
Dr. Smith met Mrs. Jones. | They had tea, i.e. hot water.
He lives in the U.S. | The army is big. | The U.S. Army is big.
See No. 5 and Fig. 3, e.g. the one on p. 7. | No. | It is lost.
Smith v. Jones, Ltd. was decided at 5 p.m. on Monday, cf. Lee et al. (2003).
J. R. R. Tolkien met C.S. Lewis. | H. americanus is a lobster.
Edwin M. Bratt left. | George W. Bush and Wm. Penn stayed.
It costs $5.50 or 3.14 in v1.2.3. | Is that all? | Yes!
Wait... what? | He left... | Nobody knew. | Well . . . maybe.
He said "Go." and left (for 3 min.) at once.
He said "Go." | Then he left. | "Go!" he said. | (It was late.) | We slept.
“Why?” asked Ann. | ‘Because!’ | She laughed.
What?! | No!! | Yahoo! said so. | It was (again!) on the radio.
See https://a.b/c.d?e=f. | Write to me@example.com or main.py on example.org.
The battle was in 1645.[12] | It was lost.[3][note 4] | So it goes.
**Note.** | This is *it.* | Thanks! :-) | See you. 😊 | Bye.
今天。 | 明天！ | “好吗？” | 「行け。」と言った。 | 3.14。 | 真的？
ما هذا؟ | كتاب. | यह है। | वह था।
yep. | not me! | i was out.
It is " lobster red " . | He said " it is . " | " Is it ? " she asked .
“No. | I’m not going,” he said. | It is in vol. I of it. | “No. | I know.”
W. O. Hunt met Frank P. Mays at 5 p.m. | Mary came at 9 p.m. Monday.
Cut a board 6 in. wide, add 2 mg. per lb. of iron, zinc, etc. | None was left.
Mix it. | 2. Bake it. | Step 3. Eat it. | It fell in 1912. | Nobody died.
Call it at once. | --help prints this, e.g. --version. | '-z' sets both.
He left.... | I stayed... I suppose. | It is zany. | 12 men came.
He lives in Concord, N.H. | Enclose a cent. | See J. Oakes, Sr. | Mary is in Ga.
It is in Smyrna , Ga. | Construction began . | The D.C. Police came to Pa.
He is Ivan Jr.. | I left by 5 p.m. . | 12 men came.
“Go!” Ann Lee cried. | "Why?" I asked. | "Go!" Mr. Li said. | "Go!" I answered.
"Go?" | Li replied. | "Why?" | He asked. | "Go." | Ann said so. | "Go!" | Ann.
`` Go ! '' Ann said . | " Why ? " Ann asked . | " Go ! " | They said that .
"Go!" | Ann said nothing. | "Who?" | Nobody said it. | “No!” | The man shouted.
' I know . ' | ' You do ? ' | ' Yes . '
` Of dogs ? ' | The Mouse left . | ` Why ? ' he said . | He went .
It is 0 @.@ 7 kg , or H. gammarus . | <unk> . . . would not .
"""


@pytest.mark.parametrize('row', TABLE.strip().splitlines())
def test_sentences_on_a_line(row):
  assert sentences(row.replace(' | ', ' ')) == row.split(' | ')


def test_cjk_sentences_need_no_blank():
  row = '今天。|明天！|“好吗？”|「行け。」と言った。|本当？！|真的吗?|是的'
  assert sentences(row.replace('|', '')) == row.split('|')


def test_a_label_is_no_sentence():
  for text in ('1. Mix it.', 'Section 12. Definitions.', 'A. Campbell left.'):
    assert sentences(text) == [text]
  assert sentences('Chapter IV. The end.\n\n3.2. Results') == [
    'Chapter IV. The end.', '3.2. Results'
  ]  # fmt: skip


def test_a_formula_belongs_to_its_sentence():
  text = 'We get\n$$\nx. Y = z\n$$\nwhere z is. Then\n\\[ a. B \\]\nThis is it.'
  first = 'We get\n$$\nx. Y = z\n$$\nwhere z is.'
  assert sentences(text) == [first, 'Then\n\\[ a. B \\]', 'This is it.']


def test_blanks_on_the_line_go_with_what_follows():
  text = ' A dog. \n\n  A cat.  A cow.\n'
  found = pieces(text, segment.sentences(text))
  assert found == [' A dog. \n\n', '  A cat.', '  A cow.\n']


def test_line_breaks_go_with_what_is_before_them():
  text = (
    'It was nearly dark when the coach came, and set down two of them.\n'
    'They stood in the road and they looked at the light in the porch.\n'
    '  Nobody spoke, for they were tired, and nobody came to the door to\n'
    'let them in.'
  )
  found = pieces(text, segment.sentences(text))
  assert [piece[:6] for piece in found] == ['It was', 'They s', '  Nobo']
  check_tiling(text, segment.sentences(text))


def test_no_model_is_needed_for_the_rules():
  text = 'Dr. Who? | Ja. | Am 3. Mai kam J. S. Bach. | 好。'
  found = segment.sentences(text.replace(' | ', ' '), language='none')
  # Without abbreviations 'Dr.' is a sentence.
  assert len(found) == 5


def test_paragraphs_are_not_cut_at_sentences():
  text = '# Title\nOne. Two.\n\n- Three. Four.\n- Five.\n'
  assert pieces(text, segment.paragraphs(text)) == [
    '# Title\n', 'One. Two.\n\n', '- Three. Four.\n', '- Five.\n'
  ]  # fmt: skip


def test_tokens_are_cut_between_words():
  def cut(text, size):
    tokenizer = tokenizers.ByteTokenizer()
    return pieces(text, segment.tokens(text, tokenizer=tokenizer, size=size))

  assert cut('one two three', 8) == ['one two', ' three']
  assert cut('one\ntwo three', 8) == ['one\ntwo', ' three']
  assert cut('one abcdefghijk two', 4) == [
    'one',
    ' abc',
    'defg',
    'hijk',
    ' two',
  ]
  assert cut('', 4) == []
  assert cut(' \n', 1) == [' \n']
  with pytest.raises(ValueError, match='size=0'):
    cut('one', 0)


def test_num_words():
  assert segment.num_words('It is 5 p.m., 日本語 カナ x1!') == 5 + 3 + 2 + 1
  assert segment.num_words('--- ...') == 0


def test_which_model_says_whose_it_is():
  assert 'english' in segment.model_name('english')


# Regular expressions gone wrong take quadratic time or worse on some of these.
ADVERSARIAL = [
  'word ', 'x', '.', '. ', '.x', '. . .x', 'a.b.c.', 'A. ', '([{"', '.)]}"',
  ". ' ", ' . " \' ', '\n```x\n\n', '\n~~~\n````\n',
  '$$ \\[ \\begin{align} x. ',
  'a\n', ' ', '\n', '\n ', '- a\n', '> ', '-', '= ', '| ', '1.', '.[a', '? ? ',
  '。', '语', "! ' , ", "` ! ' , ", '1. a ', 'chapter i. a ',
  '.\t:)', 'a\nB\n', '\n    x\n', '…',
]  # fmt: skip


@pytest.mark.parametrize('unit', ADVERSARIAL, ids=repr)
def test_time_is_linear(unit):
  text = unit * (200_000 // len(unit)) + 'x'
  with ends_soon():
    segment.sentences(text)


def test_time_of_tokens_is_linear():
  tokenizer = tokenizers.ByteTokenizer()
  with ends_soon():
    for unit in ('x', 'x ', '\n', ' '):
      text = unit * (1_000_000 // len(unit))
      segment.tokens(text, tokenizer=tokenizer, size=64)
