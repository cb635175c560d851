import json
import sys

import pytest

from rlpt_jax.data import punkt, segment
from tests import lazy

nltk = lazy.Module('nltk')
nltk_punkt = lazy.Module('nltk.tokenize.punkt')

# Ordinary prose: nothing in it that we decide otherwise than Punkt.
PROSE = """\
The committee met on Tuesday in St. Louis. Mr. Harper, who had come from Boston
by train, spoke first. He was not pleased. Why had nobody told him? The plans,
he said, were drawn up in 1990 by Dr. Eliza Stone, and approved two years
later. Nothing had been built since. Prices rose by 3.5 percent, and the firm
of Miller & Co. went bankrupt. It was a pity! Several members agreed with him.
The chairman thanked everybody. At 5 p.m. the meeting was closed. They all went
home, some of them on foot. It rained.

The second meeting took place in the U.S. embassy. This time there were maps,
tables, etc. on the walls. Mrs. Lane read the report aloud. She had a cold. In
the end the vote was 12 to 9. Nobody was happy, but work began the next week.
"""
TRAINING = 'Sgt. Ay saw it. He saw Sgt. Bee. Then he left. They ran. ' * 40


def inner_ends(text, ends):
  return {len(text[:end].rstrip()) for end in ends}


def test_decisions_are_those_of_nltk():
  model = punkt.load('english')
  theirs = [end for _, end in model.tokenizer.span_tokenize(PROSE)]
  ours = segment.sentences(PROSE)
  assert inner_ends(PROSE, ours) == inner_ends(PROSE, theirs)
  assert len(ours) == 19


def test_the_short_cut_is_nltk_too():
  model = punkt.load('english')
  words = sorted(model.tokenizer._params.ortho_context)[::40]
  words += [*punkt.ABBREVIATIONS, *punkt.TITLES, 'B', '5', 'x-ray', "'tis", 'h']
  for word in words:
    for following in ('The', 'the', 'americanus', 'Zyx', '12', ','):
      expected = model.tokenizer.text_contains_sentbreak(f'{word}. {following}')
      assert model.punkt_ends(word, following) == expected, (word, following)


@pytest.mark.parametrize(
  ('before', 'word', 'following', 'ends'),
  [
    ('in', 'Boston', 'The', True),
    ('met', 'Mr', 'Brown', False),  # Punkt knows 'brown'.
    ('met', 'Mr', 'The', False),
    ('is', 'No', '5', False),
    ('said', 'No', 'Henry', True),
    ('in', 'Vol', 'IV', False),
    ('the', 'U.S', 'Army', False),
    ('the', 'U.S', 'The', True),
    ('', 'J.P', 'Morgan', False),  # Unknown to Punkt, which would end here.
    ('John', 'F', 'Green', False),
    ('Mary', 'I', 'She', True),
    ('J', 'R', 'R.', False),
    ('with', 'vit', 'deficiency', False),
    ('that', 'house', 'deficiency', True),  # A word: Punkt's decision.
    ('Gen', 'Wm', 'Penn', False),
    ('pears', 'etc', 'He', True),
    ('pears', 'etc', 'on', False),
    ('Acme', 'Inc', 'All', True),
  ],
)
def test_periods(before, word, following, ends):
  assert punkt.load('english').ends(before, word, following) == ends


def test_asking_for_a_word_does_not_make_it_known():
  model = punkt.load('english')
  assert not model.ends('a', 'zvyx', 'here')
  model.punkt_ends('Mr', 'zvyx')
  assert not model.ends('a', 'zvyx', 'here')


def test_training_is_deterministic_and_read_back(tmp_path):
  for name in ('one.json', 'two.json'):
    punkt.train([TRAINING, PROSE], tmp_path / name, sources=['made up'])
  text = (tmp_path / 'one.json').read_text()
  assert text == (tmp_path / 'two.json').read_text()
  tables = json.loads(text)
  assert tables['sources'] == ['made up']
  assert tables['abbreviations'] == sorted(tables['abbreviations'])
  assert 'sgt' in tables['abbreviations']
  assert 'he' in ' '.join(tables['orthography'].values()).split()
  trainer = nltk_punkt.PunktTrainer()
  trainer.ABBREV_BACKOFF = 0
  trainer.train(TRAINING, finalize=False)
  trainer.train(PROSE)
  trained, read = trainer.get_params(), punkt.read(tables)
  assert read.abbrev_types == trained.abbrev_types
  assert read.collocations == trained.collocations
  for word, flags in read.ortho_context.items():
    assert flags == trained.ortho_context[word]


def test_a_language_without_a_model_is_an_error():
  with pytest.raises(ValueError, match=r"'klingon'.*language='none'"):
    segment.sentences('Text.', language='klingon')
  with pytest.raises(ValueError, match='no Punkt model'):
    segment.model_name('../english')


def test_punkt_tab_is_used_where_it_is_installed(tmp_path, monkeypatch):
  folder = tmp_path / 'tokenizers' / 'punkt_tab' / 'elvish'
  folder.mkdir(parents=True)
  (folder / 'abbrev_types.txt').write_text('aiy\n')
  (folder / 'collocations.tab').write_text('##number##\tmai\n')
  (folder / 'sent_starters.txt').write_text('elen\n')
  (folder / 'ortho_context.tab').write_text('elen\t46\n')
  monkeypatch.setattr(nltk.data, 'path', [str(tmp_path)])
  monkeypatch.setattr(punkt, 'load', punkt.load.__wrapped__)
  assert 'NLTK punkt_tab (elvish)' in segment.model_name('elvish')
  text = 'Ni aiy. Luthien. Ni aiy. Elen. Am 3. Mai tel.'
  assert segment.sentences(text, language='elvish') == [16, 24, 30, 45]


def test_the_shipped_model_is_small_and_says_what_it_is_from():
  file = punkt.importlib.resources.files('rlpt_jax.data') / 'punkt_english.json'
  text = file.read_text()
  assert len(text) < 200_000
  assert json.loads(text)['sources']


def test_nltk_is_not_loaded_before_it_is_needed():
  import subprocess

  code = 'import sys, rlpt_jax.data.segment; sys.exit("nltk" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
