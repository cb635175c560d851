"""Every example once per epoch: whatever the stops, the hosts, the batches."""

import builtins
import collections
import contextlib
import dataclasses
import itertools
import json
import pathlib
import random

import numpy as np
import pytest

from rlpt_jax.core.types import Rows
from rlpt_jax.data import cache, pipeline, quiet_tensorflow, sources, tasks
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader


@pytest.fixture
def data(corpus):
  first = sources.Files('first', corpus(30, 'one'), part_bytes=700)
  second = sources.Files('second', corpus(8, 'two'), weight=0.5)
  return Data(
    [first, second], tasks.rlpt(msr_weight=0.5), min_words=1, window=16
  )


@pytest.fixture(params=['cached', 'streamed'])
def either(request, data, tmp_path):
  if request.param == 'streamed':
    return data
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  prepare(data)
  return data


def prepare(data):
  for plan in pipeline.plans(data):
    for number in plan.missing():
      pipeline.prepare_part(number, plan)
    pipeline.write_manifest(plan)


def ids(data, batch_size=4, **options):
  """The ids of all examples of a loader."""
  with contextlib.closing(Loader(data, batch_size, **options)) as loader:
    return [e.id for loaded in loader for e in loaded.examples]


def test_every_example_once_an_epoch(either):
  found = collections.Counter(ids(dataclasses.replace(either, epochs=2)))
  assert set(found.values()) == {2}
  # Document n has n % 7 + 1 sentences, of which all but two are targets.
  counts = collections.Counter((i.split('/')[0], i[-3:]) for i in found)
  for name, documents in (('first', 30), ('second', 8)):
    targets = sum(max(0, n % 7 - 1) for n in range(documents))
    assert counts[name, 'asr'] == counts[name, 'msr'] == targets
  assert len(counts) == 4


def run_in_pieces(data, seed):
  """All ids, by hosts that stop anywhere and go on with other numbers."""
  rng = random.Random(seed)
  found, position = [], None
  while True:
    hosts = rng.choice([1, 2, 3])
    batch_size = hosts * rng.choice([1, 2, 5])
    loaders = [
      Loader(data, batch_size, host=h, hosts=hosts, position=position)
      for h in range(hosts)
    ]
    with contextlib.ExitStack() as stack:
      shares = [
        stack.enter_context(contextlib.closing(iter(loader)))
        for loader in loaders
      ]
      batches = list(
        itertools.islice(zip(*shares, strict=True), rng.randint(1, 6))
      )
    if not batches:
      return found
    for batch in batches:
      # All hosts agree on where they are.
      assert all(loaded.position == batch[0].position for loaded in batch)
      found += [e.id for loaded in batch for e in loaded.examples]
    # What was made ahead of the last batch is not lost.
    position = json.loads(json.dumps(batches[-1][0].position))


@pytest.mark.parametrize('seed', range(3))
def test_stops_and_other_hosts_change_nothing(either, seed):
  data = dataclasses.replace(either, epochs=2)
  assert run_in_pieces(data, seed) == ids(data, batch_size=1)


def test_packed_rows_over_stops(data, tmp_path):
  ntp = dataclasses.replace(data, task=tasks.Ntp(row_tokens=64), epochs=2)
  cached = dataclasses.replace(ntp, cache_dir=str(tmp_path / 'cache'))
  prepare(cached)
  for either in (ntp, cached):
    whole = list(Loader(either, 3))
    assert all(isinstance(loaded.examples, Rows) for loaded in whole)
    # All bytes are predicted, from a first token on, and the end.
    loss = sum(loaded.examples.loss_BT.sum() for loaded in whole)
    texts = [
      document.fields['text']
      for source in either.corpora
      for part in source.parts()
      for document in source.read(part, None)
    ]
    assert loss == 2 * sum(len(text) + 1 for text in texts)
    rest = Loader(either, 3, position=whole[2].position)
    for a, b in zip(whole[3:], rest, strict=True):
      np.testing.assert_array_equal(a.examples.tokens_BT, b.examples.tokens_BT)
    halves = [Loader(either, 4, host=h, hosts=2) for h in range(2)]
    for one, *two in zip(Loader(either, 4), *halves, strict=True):
      if len(one.examples.tokens_BT) == 4:
        np.testing.assert_array_equal(
          one.examples.tokens_BT,
          np.concatenate([half.examples.tokens_BT for half in two]),
        )


def test_seeds_and_epochs_are_in_other_orders(either):
  found = ids(dataclasses.replace(either, epochs=2))
  half = len(found) // 2
  assert found[:half] != found[half:]
  other = ids(dataclasses.replace(either, epochs=2, seed=1))
  assert found != other and sorted(found) == sorted(other)


def test_a_loader_of_local_files_asks_for_no_tensorflow(either, monkeypatch):
  asked, real = set(), builtins.__import__

  def noted(name, *arguments, **options):
    asked.add(name.partition('.')[0])
    return real(name, *arguments, **options)

  monkeypatch.setattr(builtins, '__import__', noted)
  monkeypatch.setattr(quiet_tensorflow, 'load', lambda: asked.add('tensorflow'))
  assert len(ids(dataclasses.replace(either, epochs=1))) > 100
  heavy = {'tensorflow', 'tensorflow_datasets', 'seqio', 'apache_beam'}
  assert not heavy & asked


def test_weights_hold_from_the_first_batch_on(either):
  first = ids(dataclasses.replace(either, epochs=1))[:28]
  counts = collections.Counter((i.split('/')[0], i[-3:]) for i in first)
  # 1, 0.5, 0.5 and 0.25 of 2.25.
  assert counts['first', 'asr'] in (12, 13)
  assert counts['second', 'msr'] in (3, 4)


def test_cached_and_streamed_give_the_same_examples(data, tmp_path):
  data = dataclasses.replace(data, epochs=1)
  cached = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  prepare(cached)

  def examples(data):
    found = [e for loaded in Loader(data, 4) for e in loaded.examples]
    return sorted(
      (e.id, tuple(e.prompt_tokens.tolist()), e.references) for e in found
    )

  assert examples(data) == examples(cached)


@pytest.mark.parametrize(
  'task',
  [
    tasks.Ntp(row_tokens=50),
    tasks.Sft(row_tokens=300, prompt='text', response='text'),
    tasks.Rlvr(question='text', answer='text'),
  ],
  ids=lambda task: task.name,
)
def test_so_do_the_other_tasks(data, tmp_path, task):
  data = dataclasses.replace(data, task=task, epochs=1)
  cached = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  prepare(cached)

  def items(data):
    loader = Loader(data, 1)
    found = []
    for component, record, i in loader.items():
      item = task.example(record, component.source.name, i, loader.tokenizer)
      if task.packed:
        found.append([ids.tolist() for ids in item])
      else:
        found.append([item.id, item.prompt_tokens.tolist(), item.references])
    return sorted(found)

  assert items(data) == items(cached) != []


def change_text(data):
  path = data.corpora[0].files[0].replace('*', '1')
  with open(path, 'r+') as file:
    text = file.read()
    file.seek(0)
    file.write(text.replace('document', 'Document', 1))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (change_text, r"corpora.first.text.each.1.jsonl was \[\d+, '\w+'\], is"),
    ({'seed': 7}, 'seed was 0, is 7'),
    ({'task': tasks.Asr()}, 'tasks.first_msr was removed'),
    ({'task': tasks.rlpt(max_targets=1)}, 'max_targets was None, is 1'),
    ({'min_words': 9}, 'min_words was 1, is 9'),
    ({'window': 8}, "shuffled by was 'window 16', is 'window 8'"),
  ],
)
def test_other_data_under_a_position_are_refused(data, change, message):
  position = next(iter(Loader(data, 2))).position
  if callable(change):
    change(data)
  else:
    data = dataclasses.replace(data, **change)
  with pytest.raises(
    ValueError, match=r'differ from those of the saved position: .*'
  ):
    Loader(data, 2, position=position)
  with pytest.raises(ValueError, match=message):
    Loader(data, 2, position=position)


def test_a_cache_prepared_anew_under_a_position_is_refused(data, tmp_path):
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  prepare(data)
  position = next(iter(Loader(data, 2))).position
  Loader(data, 2, position=position)
  change_text(data)
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'other'))
  prepare(data)
  with pytest.raises(ValueError, match=r'corpora.first.text.checksum was'):
    Loader(data, 2, position=position)


def test_a_cache_of_other_settings_is_refused(data, tmp_path):
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  prepare(data)
  data = dataclasses.replace(data, min_words=2)
  with pytest.raises(
    ValueError, match=r'with other settings: settings.min_words was 1, is 2'
  ):
    Loader(data, 2)


def files(data, **changes):
  """The same data, its first corpus read in another way."""
  first, *others = data.corpora
  corpora = [dataclasses.replace(first, **changes), *others]
  return dataclasses.replace(data, corpora=corpora)


@pytest.mark.parametrize(
  'changes', [{'part_bytes': 900}, {'max_document_bytes': 999}]
)
def test_a_corpus_read_in_another_way_is_refused(either, changes):
  position = next(iter(Loader(either, 2))).position
  with pytest.raises(ValueError, match=rf'{next(iter(changes))} was'):
    Loader(files(either, **changes), 2, position=position)


def test_another_corpus_of_the_same_name_is_refused(data, corpus, tmp_path):
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  prepare(data)
  with pytest.raises(ValueError, match='place was'):
    Loader(files(data, files=corpus(5, 'three')), 2)


def test_iterating_again_goes_on_after_what_was_used(either):
  whole = ids(dataclasses.replace(either, epochs=1))
  loader = Loader(dataclasses.replace(either, epochs=1), 4)
  found = []
  for loaded in loader:
    found += [e.id for e in loaded.examples]
    if len(found) >= 12:
      break
  del loaded
  found += [e.id for loaded in loader for e in loaded.examples]
  assert found == whole


def test_strict_is_not_content_with_what_was_dropped(data, tmp_path):
  path = pathlib.Path(data.corpora[0].files[0].replace('*', '9'))
  path.write_text('{"text": 3}\n')
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  prepare(data)
  data = dataclasses.replace(data, strict=True)
  with pytest.raises(ValueError, match='strict is on, and 1 documents'):
    Loader(data, 2)


def test_few_files_are_open_at_a_time(data, tmp_path, monkeypatch):
  monkeypatch.setattr(cache, 'OPEN_FILES', 1)
  data = dataclasses.replace(data, epochs=1, cache_dir=str(tmp_path / 'cache'))
  prepare(data)
  assert len(ids(data)) == len(set(ids(data)))


def test_prompts_may_change_under_a_position(data):
  position = next(iter(Loader(data, 2))).position
  task = tasks.rlpt(msr_weight=0.5, max_prompt_tokens=700, following=1)
  Loader(dataclasses.replace(data, task=task), 2, position=position)


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
  (tmp_path / 'x.jsonl').write_text('{"text": "One."}\n{"text": ""}\n{"te\n')
  data = Data([sources.Files('x', f'{tmp_path}/*.jsonl')], tasks.Asr())
  with pytest.raises(
    ValueError, match=r'x_asr: the corpus x gives no exam'
  ) as e:
    list(Loader(data, 2))
  message = str(e.value)
  assert '2 documents were read, of which 1 are intact' in message
  assert "empty field 'text': x.jsonl line 2" in message
  assert '1 documents with fewer than three segments' in message
  assert 'x.jsonl line 3' in message


def test_strict_ends_at_the_first_fault(tmp_path):
  (tmp_path / 'x.jsonl').write_text('{"text": ""}\n')
  files = sources.Files('x', f'{tmp_path}/*.jsonl')
  data = Data([files], tasks.Asr(), strict=True)
  with pytest.raises(ValueError, match=r'line 1.*empty field.*strict is on'):
    next(iter(Loader(data, 2)))


def test_rows_and_prompts_do_not_mix(data):
  data = dataclasses.replace(data, task=(tasks.Asr(), tasks.Ntp()))
  with pytest.raises(ValueError, match='cannot be mixed with'):
    Loader(data, 2)


@pytest.mark.parametrize(('host', 'hosts'), [(3, 2), (-1, 2), (0, 0)])
def test_a_host_that_there_is_not(data, host, hosts):
  with pytest.raises(ValueError, match='expected 0 to hosts - 1'):
    Loader(data, 6, host=host, hosts=hosts)


def test_what_is_no_position(data):
  with pytest.raises(ValueError, match='expected a position that a Loader'):
    Loader(data, 2, position={'taken': 3})


def test_faults_are_counted_once_for_several_tasks(tmp_path):
  lines = ['{"text": "One. Two is here. Three."}', '{"text": 3}']
  (tmp_path / 'x.jsonl').write_text('\n'.join(lines))
  corpus = sources.Files('x', f'{tmp_path}/*.jsonl')
  data = Data([corpus], tasks.rlpt(), min_words=1, epochs=1)
  loader = Loader(data, 2)
  assert len(list(loader)) == 1
  (line,) = loader.faults()
  assert line.startswith("x: 1 x field 'text' is not text")


def test_a_batch_that_hosts_cannot_share(data):
  with pytest.raises(ValueError, match='batch_size=4: expected a multiple'):
    Loader(data, 4, hosts=3)
