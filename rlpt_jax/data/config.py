"""The data config of a run: its corpora, its tasks and their preparation.

A gin file sets it, with a block for each corpus:

  wiki/sources.Files.name = 'wiki'
  wiki/sources.Files.files = 'wiki/*.jsonl.gz'

  config.Data.corpora = [@wiki/sources.Files()]
  config.Data.task = @tasks.rlpt()
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from rlpt_jax.core import checks
from rlpt_jax.core import tokenizer as tokenizer_lib
from rlpt_jax.core.checks import Count, Name, Natural, Seed
from rlpt_jax.data import records, segment
from rlpt_jax.data.cache import digest
from rlpt_jax.data.records import Stage
from rlpt_jax.data.sources import Source
from rlpt_jax.data.tasks import Task

# Segmenters and tokenizers are compared by their output on this text. Extend it
# when a rule changes, so that caches made by the old rule are not read.
PROBE = """# A heading

Dr. Smith paid $3.50 for "it"... Really? He said: "Go!" See example.com, p. 5.
A second line of the same paragraph; it ends here. 你好。世界。

- an item
- another one: x = 1

```python
print("Hello. World.")
```

$$ a. B $$ The end of it was reached by J. R. Hartley in the U.S. by then.

    No. I paid $5 (or so.) at 5 p.m. Mary did. 2. Frank P. Mays is in Rome, Ga.
    Cut 6 in. of it.... I did. ` Why ? ' She left. --help says so. In Zama. 12
    came to Ivan Jr.. Ten are there. "Go!" Ann said.
"""


@dataclasses.dataclass(frozen=True)
class Data:
  """Corpora and the tasks made from them.

  Every corpus is used for every task, except that a corpus with its own `task`
  is used only for that. The weight of a corpus is multiplied by the task's.
  """

  corpora: Sequence[Source]
  task: Task | Sequence[Task]
  # 'bytes' or the directory of a tokenizer. None uses the model's tokenizer, or
  # 'bytes' if there is no model.
  tokenizer: Name | None = None
  cache_dir: str = ''  # The folder of `rlpt prepare`; '' reads the corpora.
  segmenter: Callable[[str], list[int]] = segment.sentences
  min_words: Natural = 4  # Shorter segments are never targets (records.Text).
  seed: Seed = 0
  epochs: Count | None = None  # None repeats the data forever.
  window: Count = 8192  # Without a cache, shuffle this many examples at a time.
  strict: bool = False  # If True, an unusable document raises an error.

  def __post_init__(self):
    checks.check_fields(self)
    if not self.corpora:
      raise checks.setting_error(
        type(self), 'corpora', self.corpora, 'at least one corpus'
      )
    for source in self.corpora:
      kinds = Task | Sequence[Task] | None
      checks.check_value(type(source), 'task', source.task, kinds)
    names = [source.name for source in self.corpora]
    if twice := {name for name in names if names.count(name) > 1}:
      raise ValueError(
        f'Data.corpora: two corpora are named {", ".join(sorted(twice))}: '
        'give each its own name.'
      )
    object.__setattr__(self, 'cache_dir', os.path.expanduser(self.cache_dir))


@dataclasses.dataclass(frozen=True)
class Component:
  """One task of one corpus."""

  source: Source
  task: Task
  stage: Stage

  @property
  def name(self) -> str:
    return f'{self.source.name}_{self.task.name}'

  @property
  def weight(self) -> float:
    return self.source.weight * self.task.weight

  @property
  def folder(self) -> str:
    """The name of the cache folder with the records of this component."""
    return f'{self.source.name}.{self.stage.name}'


def components(
  data: Data, tokenizer: tokenizer_lib.Tokenizer
) -> list[Component]:
  """Returns a component for every task of every corpus."""
  result = []
  for source in data.corpora:
    tasks = data.task if source.task is None else source.task
    tasks = tasks if isinstance(tasks, (list, tuple)) else (tasks,)
    if not tasks:
      raise ValueError('Data.task: expected at least one task, found none.')
    for task in tasks:
      text = source.text
      stage = task.stage(tokenizer, text, data.segmenter, data.min_words)
      if isinstance(stage, records.Text):  # The others do not segment.
        _check_segmenter(data.segmenter)
      result.append(Component(source, task, stage))
  names = [component.name for component in result]
  if twice := {name for name in names if names.count(name) > 1}:
    raise ValueError(
      f'Data.task: {", ".join(sorted(twice))} is given twice. Remove one of '
      'the two.'
    )
  stages = {}
  for component in result:
    first = stages.setdefault(component.folder, component.stage)
    if settings(first) != settings(component.stage):
      raise ValueError(
        f'Data: two tasks of {component.source.name} read different fields of '
        'its documents. Make it two corpora with different names.'
      )
  return result


def _check_segmenter(segmenter: Callable[[str], list[int]]):
  try:
    segmenter('A word.')
  except Exception as error:
    raise ValueError(
      f'Data.segmenter: {describe(segmenter)} cannot segment a text: '
      f'{error}. In gin, set config.Data.segmenter = @segment.paragraphs, '
      'say; @segment.tokens also needs segment.tokens.size and '
      'segment.tokens.tokenizer = @tokenizer.load().'
    ) from error


@functools.lru_cache(maxsize=8)
def load_tokenizer(source: str | None) -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.load(source or 'bytes')


def describe(segmenter: Callable[[str], list[int]]) -> str:
  """Describes a segmenter: its name, its options and the model it uses."""
  name = getattr(segmenter, 'func', segmenter).__name__
  options = getattr(segmenter, 'keywords', {})
  words = [name, *(f'{k}={v!r}' for k, v in options.items())]
  model = _model_of(segmenter)
  return ' '.join([*words, f'by {model}'] if model else words)


def _model_of(segmenter: Callable[[str], list[int]]) -> str:
  if getattr(segmenter, 'func', segmenter) is not segment.sentences:
    return ''
  options = getattr(segmenter, 'keywords', {})
  return segment.model_name(options.get('language', 'english'))


def _segmenter_fingerprint(segmenter: Callable[[str], list[int]]) -> list:
  options = {
    name: _tokenizer_fingerprint(value)
    if hasattr(value, 'vocab_size')
    else repr(value)
    for name, value in getattr(segmenter, 'keywords', {}).items()
  }
  # Only the model's name: its path differs between machines.
  model = _model_of(segmenter).split(',')[0]
  return [model, options, digest(list(map(int, segmenter(PROBE))))]


def _tokenizer_fingerprint(
  tokenizer: tokenizer_lib.Tokenizer, chat: bool = False
) -> str:
  t = tokenizer
  known = [t.vocab_size, t.bos_id, list(t.eos_ids), t.encode(PROBE)]
  if chat:
    messages = [
      {'role': 'user', 'content': 'Hello.'},
      {'role': 'assistant', 'content': '<think>Well.</think>Hello.'},
    ]
    try:
      known.append(t.encode_chat(messages, add_generation_prompt=False))
    except ValueError as error:  # It has no chat template.
      known.append(str(error.__class__))
  return digest(known)


def settings(stage: Stage) -> dict[str, Any]:
  """Returns everything a stage's records depend on, except the documents."""
  values = {'stage': stage.name}
  for field in dataclasses.fields(stage):
    value = getattr(stage, field.name)
    if field.name == 'tokenizer':
      value = _tokenizer_fingerprint(value, chat=stage.name == 'chat')
    elif callable(value):
      value = _segmenter_fingerprint(value)
    elif isinstance(value, tuple):
      value = list(value)  # JSON has no tuples.
    values[field.name] = value
  return values
