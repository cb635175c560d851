"""What a run reads: corpora, what is asked of them, and how they are prepared.

A gin file describes it, a block for each corpus:

  from __gin__ import dynamic_registration
  from rlpt_jax.data import config
  from rlpt_jax.data import sources
  from rlpt_jax.data import tasks

  wiki/sources.Files.name = 'wiki'
  wiki/sources.Files.files = 'wiki/*.jsonl.gz'

  config.Data.corpora = [@wiki/sources.Files()]
  config.Data.task = @tasks.rlpt()
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from rlpt_jax.core import tokenizer as tokenizer_lib
from rlpt_jax.data import segment
from rlpt_jax.data.cache import digest
from rlpt_jax.data.records import Stage
from rlpt_jax.data.sources import Source
from rlpt_jax.data.tasks import Task

# What a segmenter and a tokenizer do with this tells them from others.
PROBE = """# A heading

Dr. Smith paid $3.50 for "it"... Really? He said: "Go!" See example.com, p. 5.
A second line of the same paragraph; it ends here. 你好。世界。

- an item
- another one: x = 1

```python
print("Hello. World.")
```

$$ a. B $$ The end of it was reached by J. R. Hartley in the U.S. by then.
"""


@dataclasses.dataclass(frozen=True)
class Data:
  """Corpora and the tasks made of them.

  Every task is made of every corpus; a corpus with a `task` of its own has that
  one instead. Weights multiply: a corpus's, and a task's.
  """

  corpora: Sequence[Source]
  task: Task | Sequence[Task]
  tokenizer: str = 'bytes'  # Or the directory of a model's tokenizer.
  cache_dir: str = ''  # What `rlpt prepare` fills; '' reads the corpora.
  segmenter: Callable[[str], list[int]] = segment.sentences
  min_words: int = 4  # Shorter segments are no targets (records.Text).
  seed: int = 0
  epochs: int | None = None  # None: without end.
  window: int = 8192  # Examples shuffled together where there is no cache.
  strict: bool = False  # The first unusable document ends the run.

  def __post_init__(self):
    if not isinstance(self.corpora, (list, tuple)) or not self.corpora:
      raise ValueError(
        f'Data.corpora: expected a list of corpora, found {self.corpora!r}.'
      )
    names = [source.name for source in self.corpora]
    if twice := {name for name in names if names.count(name) > 1}:
      raise ValueError(
        f'Data.corpora: {", ".join(sorted(twice))} is the name of two: give '
        'each a name of its own.'
      )
    for name in ('window', 'epochs'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f'Data.{name}: expected 1 or more, found {value}.')


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
    """The name of the records it reads, in the cache."""
    return f'{self.source.name}.{self.stage.name}'


def components(
  data: Data, tokenizer: tokenizer_lib.Tokenizer
) -> list[Component]:
  """Every task of every corpus."""
  found = []
  for source in data.corpora:
    tasks = source.task or data.task
    for task in tasks if isinstance(tasks, (list, tuple)) else (tasks,):
      text = source.text
      stage = task.stage(tokenizer, text, data.segmenter, data.min_words)
      found.append(Component(source, task, stage))
  names = [component.name for component in found]
  if twice := {name for name in names if names.count(name) > 1}:
    raise ValueError(f'Data.task: {", ".join(sorted(twice))} is there twice.')
  stages = {}
  for component in found:
    first = stages.setdefault(component.folder, component.stage)
    if settings(first) != settings(component.stage):
      raise ValueError(
        f'Data: two tasks of {component.source.name} read other fields of its '
        'documents. Make it two corpora, with names of their own.'
      )
  return found


@functools.lru_cache(maxsize=8)
def load_tokenizer(source: str) -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.load(source)


def described(segmenter: Callable[[str], list[int]]) -> str:
  """A segmenter in words: its name, its options, and the model it uses."""
  name = getattr(segmenter, 'func', segmenter).__name__
  options = getattr(segmenter, 'keywords', {})
  words = [name, *(f'{k}={v!r}' for k, v in options.items())]
  model = _model_of(segmenter)
  return ' '.join([*words, f'by {model}'] if model else words)


def _model_of(segmenter: Callable[[str], list[int]]) -> str:
  if getattr(segmenter, 'func', segmenter) is not segment.sentences:
    return ''
  options = getattr(segmenter, 'keywords', {})
  return segment.which_model(options.get('language', 'english'))


def settings(stage: Stage) -> dict[str, Any]:
  """What a stage's records depend on, besides the documents."""
  values = {'stage': stage.name}
  for field in dataclasses.fields(stage):
    value = getattr(stage, field.name)
    if field.name == 'tokenizer':
      value = digest([value.vocab_size, value.bos_id, value.encode(PROBE)])
    elif callable(value):
      # Machines differ in whether NLTK's model is there, and where.
      model = _model_of(value).split(',')[0]
      value = [model, digest(list(map(int, value(PROBE))))]
    elif isinstance(value, tuple):
      value = list(value)  # As JSON says it.
    values[field.name] = value
  return values
