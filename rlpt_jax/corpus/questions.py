"""Documents become questions that can be verified (Webscale-RL, 2510.06499).

`Questions` is a stage: it replaces a document by the questions that models made
of it. A question is a document whose text is the question; its fields are

  answer             short, from the document
  domain, persona    who asks
  material           the document, which training does not show
  source             the document's id
  prompt, reasoning  for a share of the questions: a conversation to learn first

Four models take part, and may be one: `filter` says whether the document is fit
for questions, `identify` names its domain and up to three personas, `generate`
asks one question for each persona, and `check` accepts it only if the answer is
correct, the question has its context, and does not give its answer away
(question_prompts.py). Before the checker is asked, two plain rules reject a
question that contains its answer or refers to a document.

What is ours, since the paper does not say: a reply of the wrong form is asked
for again, at most `attempts` times in all, and the causes are counted.

Every call is kept in `calls.jsonl`, and is never made again (llm/calls.py).
"""

import asyncio
import dataclasses
import hashlib
import os
import pathlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Name, Natural, Share
from rlpt_jax.corpus import question_prompts as to
from rlpt_jax.corpus import worked_examples
from rlpt_jax.corpus.documents import Document, Dropped, Several
from rlpt_jax.corpus.question_prompts import Prompts
from rlpt_jax.data import prompts
from rlpt_jax.llm import json_replies
from rlpt_jax.llm.budget import Budget
from rlpt_jax.llm.calls import Calls
from rlpt_jax.llm.chat_api import Fault
from rlpt_jax.llm.remote import Endpoint, Patience

STAGES = 'filter', 'identify', 'generate', 'check', 'reason'
UNFIT = 'document not qualified'
DECLINED = 'no question for a persona'
HOLDS_ANSWER = 'the question contains its answer'
REFERS = 'the question refers to a document'
# What the checker may find, in the order in which it is reported.
REJECTED = (
  ('answer_correctness', False, 'checker: wrong answer'),
  ('info_leakage', True, 'checker: answer given away'),
  ('has_context', False, 'checker: context missing'),
)
CALLS = 'calls.jsonl'

_REFERS = re.compile(
  r'\b(?:according to|mentioned in|described in|stated in|given in|based on)'
  r' (?:the|this) (?:\w+ )?(?:text|passage|document|material|article|excerpt|'
  r'paragraph)\b'
  r'|\bthe (?:text|passage|document|material|article|excerpt) '
  r'(?:says|states|mentions|describes|explains|gives)\b',
  re.IGNORECASE,
)
_BOX = re.compile(r'\\boxed\s*\{')
_WORD = re.compile(r'\w+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Models:
  """The model of each stage; `generate` where none is given."""

  generate: Endpoint
  filter: Endpoint | None = None
  identify: Endpoint | None = None
  check: Endpoint | None = None
  reason: Endpoint | None = None

  def __post_init__(self):
    checks.check_fields(self)

  def by_stage(self) -> dict[str, Endpoint]:
    return {stage: getattr(self, stage) or self.generate for stage in STAGES}


class Questions:
  """The stage that asks models for questions about documents.

  folder: for the records of calls.
  prompts: ours, or those that the paper prints; question_prompts.py has both.
  examples: worked examples in a prompt that asks for a question; the paper's
    pipeline has 2.
  attempts: how often a call is made until its reply has the right form.
  max_characters: of a longer document the beginning is asked about, up to a
    line break or blank.
  reasoned: the share of the questions, chosen by their ids, for which a model
    writes the reasoning that leads to the answer. Learn from these first
    (section 5.1 of the paper), and from the others by RL.
  """

  size = 512  # Documents that are asked about together.

  def __init__(
    self,
    *,
    models: Models,
    prompts: Literal['ours', 'paper'] | Prompts = 'ours',
    folder: Name,
    examples: Natural = 2,
    attempts: Count = 3,
    max_characters: Count = 20_000,
    reasoned: Share = 0.0,
    patience: Patience | None = None,
    budget: Budget | None = None,
  ):
    checks.check_arguments(type(self), locals())
    # One may be about the document itself, and is left out then.
    most = min(map(len, map(worked_examples.library, worked_examples.DOMAINS)))
    if examples > most - 1:
      raise checks.setting_error(
        type(self), 'examples', examples, f'at most {most - 1}'
      )
    named = {'ours': to.OURS, 'paper': to.PAPER}
    self.prompts = named[prompts] if isinstance(prompts, str) else prompts
    self.models, self.folder = models, folder
    self.examples, self.attempts = examples, attempts
    self.max_characters, self.reasoned = max_characters, reasoned
    self.patience, self.budget = patience, budget

  def settings(self) -> dict[str, Any]:
    """Returns what the questions depend on: see core/settings.py.

    A budget may be raised, and a server may move.
    """
    return {
      'models': {
        stage: {
          'model': model.model, 'chat': model.chat, 'fields': model.fields,
        }
        for stage, model in self.models.by_stage().items()
      },
      'prompts': dataclasses.asdict(self.prompts),
      'examples': self.examples,
      'attempts': self.attempts,
      'max_characters': self.max_characters,
      'reasoned': self.reasoned,
    }  # fmt: skip

  def check(self):
    """Raises for settings that can be found wrong without asking a model."""
    for endpoint in self.models.by_stage().values():
      endpoint.key()
      if self.budget:
        self.budget.check(endpoint.model, endpoint.fields)

  @property
  def records(self) -> str:
    return os.path.join(self.folder, CALLS)

  def judge(self, documents: Sequence[Document]) -> list[Several]:
    """Returns the questions about each document."""
    calls = opened(self)
    return list(calls.run(lambda one: self._made_of(calls, one), documents))

  def __call__(self, document: Document) -> Several:
    return self.judge([document])[0]

  async def _made_of(self, calls: Calls, document: Document) -> Several:
    asking = _Asking(self, calls, document)
    await asking.run()
    return Several(asking.made, asking.dropped, asking.events, asking.sample())


class _Asking:
  """The calls about one document."""

  def __init__(self, stage: Questions, calls: Calls, document: Document):
    self._stage, self._calls, self._document = stage, calls, document
    self._text = shortened(document.text, stage.max_characters)
    self.made: list[Document] = []
    self.dropped: list[Dropped] = []
    self.events: list[str] = []
    if self._text != document.text:
      self.events.append('document shortened')
    self._said: dict[str, Any] = {}
    self._pairs: list[dict[str, Any]] = []

  async def run(self):
    templates = self._stage.prompts
    filtered = await self._read(
      'filter', to.to_filter(templates, self._text), to.FILTERED
    )
    if isinstance(filtered, Dropped):
      self.dropped.append(filtered)
      return
    self._said['filter'] = filtered
    if not filtered['qualified']:
      self.dropped.append(Dropped(UNFIT, filtered['thought']))
      return
    identified = await self._read(
      'identify', to.to_identify(templates, self._text), to.IDENTIFIED
    )
    if isinstance(identified, Dropped):
      self.dropped.append(identified)
      return
    self._said['identify'] = identified
    domain, personas = identified['domain'], identified['personas']
    self._pairs = [{'persona': persona} for persona in personas]
    results = await asyncio.gather(
      *(self._pair(domain, pair) for pair in self._pairs)
    )
    self.events.sort()  # They came in the order of the replies.
    for i, result in enumerate(results):
      if isinstance(result, Dropped):
        self.dropped.append(result)
        self._pairs[i]['dropped'] = result.reason
      else:
        fields = {
          **result, 'domain': domain, 'persona': personas[i],
          'material': self._text, 'source': self._document.id,
        }  # fmt: skip
        id, question = f'{self._document.id}#{i}', fields.pop('question')
        self.made.append(Document(id, question, fields))

  async def _pair(
    self, domain: str, pair: dict[str, Any]
  ) -> dict[str, str] | Dropped:
    """Returns a question and its answer, or why there is none."""
    stage, id = self._stage, self._document.id
    examples = worked_examples.examples(
      domain, id, stage.examples, document=self._text
    )
    persona = pair['persona']
    generated = await self._read(
      'generate',
      to.to_generate(stage.prompts, self._text, persona, examples),
      to.GENERATED,
      may_be_empty=True,
    )
    if isinstance(generated, Dropped):
      return generated
    pair.update(generated)
    question = generated['question'].strip()
    answer = generated['answer'].strip()
    if holds(question, answer):
      return Dropped(HOLDS_ANSWER)
    if _REFERS.search(question):
      return Dropped(REFERS)
    checked = await self._read(
      'check',
      to.to_check(
        stage.prompts, self._text, question, answer, worked_examples.checks(id)
      ),
      to.CHECKED,
    )
    if isinstance(checked, Dropped):
      return checked
    pair['check'] = checked
    for name, rejected, reason in REJECTED:
      if checked[name] is rejected:
        return Dropped(reason, checked['thought'])
    found = {'question': question, 'answer': answer}
    if chance(f'{id} {persona}') < stage.reasoned:
      reasoning = await self._reasoning(question, answer)
      if reasoning:
        prompt = prompts.RLVR.replace('{question}', question)
        found |= {'prompt': prompt, 'reasoning': reasoning}
    return found

  async def _reasoning(self, question: str, answer: str) -> str | None:
    """Returns the reasoning that ends in the answer, or None."""
    reply = await self._calls.ask(
      to.to_reason(question, answer), stage='reason', id=self._document.id
    )
    if isinstance(reply, Fault):
      self.events.append(f'reason: {reply.cause}')
      return None
    text = reply.text.rpartition('</think>')[2].strip()
    if _normal(boxed(text)) != _normal(answer):
      self.events.append('reason: does not end in the answer')
      return None
    return text

  async def _read(
    self,
    stage: str,
    prompt: str,
    fields: Mapping[str, json_replies.Read],
    *,
    may_be_empty: bool = False,
  ) -> dict[str, Any] | Dropped:
    """Returns the fields of the reply, or why no attempt gave any."""
    for attempt in range(self._stage.attempts):
      reply = await self._calls.ask(
        prompt, stage=stage, id=self._document.id, attempt=attempt,
        document=self._text,
      )  # fmt: skip
      if isinstance(reply, Fault):
        found = reply  # The server was already asked several times.
        break
      found = json_replies.parse(reply.text, fields, notes=to.NOTES)
      if not isinstance(found, Fault):
        return found
      if may_be_empty and found.cause in (
        'question is empty',
        'answer is empty',
      ):
        return Dropped(DECLINED)
      self.events.append(f'{stage}: {found.cause}')
    return Dropped(f'{stage} failed: {found.cause}', found.detail)

  def sample(self) -> dict[str, Any]:
    """Returns what was asked and said about the document."""
    return {
      'id': self._document.id, 'text': self._text[:4000], **self._said,
      'pairs': self._pairs, 'dropped': [list(each) for each in self.dropped],
    }  # fmt: skip


def holds(question: str, answer: str) -> bool:
  """Returns whether a question contains its answer, word by word.

  Short words and numbers are no sign: 'no' is in many questions, and a
  calculation may end in a quantity that it began with.
  """
  words = [word.lower() for word in _WORD.findall(answer)]
  if not any(len(word) > 3 and word.isalpha() for word in words):
    return False
  asked = f' {" ".join(_WORD.findall(question.lower()))} '
  return f' {" ".join(words)} ' in asked


def boxed(text: str) -> str:
  r"""Returns what the last \boxed{} of a text contains."""
  found = ''
  for match in _BOX.finditer(text):
    depth, start = 1, match.end()
    for i in range(start, min(len(text), start + 1000)):
      depth += {'{': 1, '}': -1}.get(text[i], 0)
      if not depth:
        found = text[start:i]
        break
  return found


def _normal(text: str) -> str:
  text = re.sub(r'\\text\s*\{([^{}]*)\}', r'\1', text)
  return ' '.join(text.replace('$', '').lower().split()).rstrip('.')


def shortened(text: str, most: int) -> str:
  """Returns the beginning of a text, cut at a line break or a blank."""
  if len(text) <= most:
    return text
  cut = max(text.rfind('\n', most // 2, most), 0) or text.rfind(' ', 0, most)
  return text[: cut if cut > 0 else most].rstrip()


def chance(name: str) -> float:
  """Returns a number from 0 to 1 that follows from a name."""
  data = name.encode('utf-8', 'surrogatepass')
  digest = hashlib.blake2b(data, digest_size=7).digest()
  return int.from_bytes(digest, 'big') / 2**56


# The open records of this process, since a stage travels to workers as data.
_open: dict[str, Calls] = {}
_opening = threading.Lock()  # Beam's worker and the display may both be first.


def opened(stage: Questions) -> Calls:
  """Returns the calls of a stage; the first time, reads their records."""
  path = stage.records
  with _opening:
    if path not in _open:
      pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
      _open[path] = Calls(
        path,
        stage.models.by_stage(),
        patience=stage.patience,
        budget=stage.budget,
      )
    return _open[path]


def close(stage: Questions):
  """Ends the calls of a stage in this process."""
  if calls := _open.pop(stage.records, None):
    calls.close()
