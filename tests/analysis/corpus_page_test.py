from rlpt_jax.analysis import corpus_page as lib

HOSTILE = '<script>alert(1)</script> & \ud800 \u202e'
STAGES = [
  {
    'name': 'gopher_quality', 'documents': 12, 'left': 8, 'edited': 0,
    'dropped': {'fewer than 50 words': 4}, 'edits': {},
  },
  {
    'name': 'near_duplicates', 'documents': 8, 'left': 7, 'edited': 0,
    'dropped': {'nearly the text': 1}, 'edits': {},
  },
  {
    'name': 'mask', 'documents': 7, 'left': 7, 'edited': 2, 'dropped': {},
    'edits': {'e-mail': 3},
  },
  {
    'name': 'idle', 'documents': 7, 'left': 7, 'edited': 0, 'dropped': {},
    'edits': {},
  },
]  # fmt: skip
MANIFEST = {
  'documents': 12, 'characters': 1000, 'written': 7, 'written_characters': 500,
  'plan': {'sources': {'wiki': {}}}, 'stages': STAGES,
  'faults': {'counts': {'not JSON': 1}, 'first': {'not JSON': ['a line 3']}},
}  # fmt: skip
SAMPLES = [
  {
    'name': 'gopher_quality',
    'samples': {
      'fewer than 50 words': [
        {'id': f'd{i}', 'detail': '3 words', 'text': HOSTILE} for i in range(5)
      ]
    },
  },
  {
    'name': 'near_duplicates',
    'samples': {
      'nearly the text': [
        {
          'id': 'd9', 'detail': 'kept: d1', 'text': 'The cat sat here.',
          'kept': 'The dog sat here.',
        }
      ]
    },
  },
  {
    'name': 'mask',
    'samples': {
      'e-mail': [
        {
          'id': 'd2', 'before': 'Write to ', 'removed': 'a@b.org',
          'added': '[EMAIL]', 'after': ' soon',
        }
      ]
    },
  },
]  # fmt: skip


def test_the_page_shows_counts_and_samples():
  page = lib.corpus_page(MANIFEST, SAMPLES)
  assert '<script>alert' not in page
  assert 'fewer than 50 words</bdi> <small>4 dropped' in page
  assert '2 more</summary>' in page
  assert '<del><bdi>a@b.org</bdi></del><ins><bdi>[EMAIL]</bdi></ins>' in page
  assert 'not JSON: a line 3' in page
  assert 'It changed nothing.' in page
  assert '7 documents (58.3%)' in page


def test_what_only_one_of_two_texts_has_is_marked():
  dropped, kept = lib._compared('The cat sat here.', 'The dog sat here.')
  assert '<del><bdi>cat</bdi></del>' in dropped
  assert '<ins><bdi>dog</bdi></ins>' in kept
  same, _ = lib._compared('The cat.', 'The cat.')
  assert '<del>' not in same
