from rlpt_jax.corpus import documents
from rlpt_jax.corpus.documents import Document, Dropped, Edit


def test_edits_replace_what_they_name():
  document = Document('a', 'Write to ann@x.org or 10.0.0.1.')
  edits = [
    Edit('e-mail', 9, 'ann@x.org', '[EMAIL]'),
    Edit('IP address', 22, '10.0.0.1', '[IP]'),
  ]
  after = documents.edited(document, edits)
  assert after.text == 'Write to [EMAIL] or [IP].'
  assert after.edits == tuple(edits)
  assert documents.edited(document, []) == document


def test_a_stage_in_batches_also_takes_one_document():
  stage = documents.InBatches(
    lambda batch: [Dropped(document.text) for document in batch]
  )
  assert stage(Document('a', 'no')) == Dropped('no')
