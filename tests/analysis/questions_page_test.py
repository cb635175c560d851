from rlpt_jax.analysis.questions_page import questions_page

HOSTILE = '<script>alert(1)</script> \u202e'
CHECK = {
  'thought': 'Yes.', 'answer_correctness': True, 'info_leakage': False,
  'has_context': False,
}  # fmt: skip
SAMPLES = [
  {
    'id': 'd1', 'text': HOSTILE, 'pairs': [
      {
        'persona': 'a baker', 'question': 'How much?', 'answer': '7 g',
        'check': CHECK, 'dropped': 'checker: context missing',
      },
      {'persona': 'a child', 'dropped': 'no question for a persona'},
      {'persona': 'a cook', 'question': 'Why?', 'answer': 'Heat'},
    ],
    'filter': {'qualified': True, 'thought': 'Good.'},
    'identify': {'domain': 'Other', 'thought': ''}, 'dropped': [],
  },
  {
    'id': 'd2', 'text': 'x', 'pairs': [],
    'dropped': [['filter failed: not JSON', HOSTILE]],
  },
]  # fmt: skip


def test_documents_and_questions_stand_side_by_side():
  page = questions_page(SAMPLES, {'questions': '1'})
  assert '<script>alert' not in page
  assert page.count('<article') == 2
  assert '✗ <bdi>lacks context' in page and '✓ <bdi>answer correct' in page
  assert page.count('accepted') == 1
  assert 'dropped: no question for a persona' in page
  assert 'filter failed: not JSON' in page
