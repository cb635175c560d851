"""A judge model on the devices of the run.

It has its own weights, tokenizer and layout. `completer` and `scorer` are for
the two ways to ask in `rewards.judge`: `completer` decodes an answer greedily;
`scorer` reads each question once and returns the log-probabilities of the two
answers, without decoding. `reader` computes log-probabilities of texts, for
rewards without a judge. Every host of a pod must ask the same questions in the
same order.
"""

import collections
import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, scoring
from rlpt_jax.models.config import Decoder
from rlpt_jax.rewards.judge import Complete, Score
from rlpt_jax.rewards.likelihood import Logprob
from rlpt_jax.sampling.decode import bucket, pad_prompts
from rlpt_jax.sampling.engine import nan_error
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.sampler import Sampler

ANSWERS = ('Score: 0', 'Score: 1')
AFTER_PROMPT = '\n\n'  # Before the answer, if there is no chat template.
NO_VERDICT = (float('nan'), float('nan'))

# Called with the numbers of tokens read, and of tokens generated or scored.
Spend = Callable[[int, int], None]

logger = logging.getLogger(__name__)


def ignore(read: int, written: int):
  """Counts nothing."""


def completer(
  sampler: Sampler, tokenizer: Tokenizer, *, chat: bool, spend: Spend = ignore
) -> Complete:
  """Returns a `Complete` that decodes greedily.

  The answer to a question that is too long is None.
  """
  plan = sampler.plan

  def complete(prompts: list[str]) -> list[str | None]:
    questions = [question(tokenizer, prompt, chat=chat) for prompt in prompts]
    fitting = [
      i for i, ids in enumerate(questions) if len(ids) <= plan.max_prompt_tokens
    ]
    _warn_of_long(
      len(questions) - len(fitting), len(questions), plan.max_prompt_tokens
    )
    requests = (
      Request(
        prompt_tokens=tuple(questions[i]),
        id=f'judge/{i}',
        temperature=0.0,
        max_new_tokens=plan.max_new_tokens,
        stops=tuple((eos,) for eos in tokenizer.eos_ids),
      )
      for i in fitting
    )
    answers: list[str | None] = [None] * len(prompts)
    for i, [completion] in zip(fitting, sampler.run(requests), strict=True):
      answers[i] = tokenizer.decode(completion.tokens)
      spend(len(questions[i]), len(completion.tokens))
    return answers

  return complete


def scorer(
  decoder: Decoder,
  params,
  tokenizer: Tokenizer,
  *,
  chat: bool,
  rows: int = 16,
  max_prompt_tokens: int = 2048,
  answers: Sequence[str] = ANSWERS,
  spend: Spend = ignore,
) -> Score:
  """Returns a `Score`: the log-probabilities of the answers to each question.

  The shape of a question's batch depends only on that question and the answers.
  So its scores do not depend on other questions.
  """
  rows = decoder.layout.whole_batch(rows)

  def score(prompts: list[str]) -> list[tuple[float, ...]]:
    questions = [
      split(tokenizer, p, chat=chat, answers=answers) for p in prompts
    ]
    by_shape = collections.defaultdict(list)
    for i, (context, choices) in enumerate(questions):
      if len(context) <= max_prompt_tokens:
        S = min(bucket(len(context)), max_prompt_tokens)
        by_shape[S, max(map(len, choices))].append(i)
        spend(len(context), sum(map(len, choices)))
    fitting = sum(map(len, by_shape.values()))
    _warn_of_long(len(questions) - fitting, len(questions), max_prompt_tokens)
    pending = []
    for (S, T), same in sorted(by_shape.items()):
      for first in range(0, len(same), rows):
        some = same[first : first + rows]
        batch = _padded([questions[i] for i in some], rows, S, T)
        # Do not wait here: the next batch is made while this one runs.
        on_devices = (decoder.layout.put(x, 'batch', None) for x in batch)
        pending.append((some, choice_logprobs(decoder, params, *on_devices)))
    scores = [NO_VERDICT] * len(prompts)
    for some, logprobs_PC in pending:
      for i, row in zip(some, np.asarray(logprobs_PC).tolist(), strict=False):
        scores[i] = tuple(row)
    _check_numbers(decoder, [scores[i] for some, _ in pending for i in some])
    return scores

  return score


def reader(
  decoder: Decoder, params, *, rows: int = 16, spend: Spend = ignore
) -> Logprob:
  """Returns a `Logprob`: the summed log-probability of each continuation."""
  rows = decoder.layout.whole_batch(rows)

  def logprob(contexts, continuations) -> list[float]:
    by_shape = collections.defaultdict(list)
    for i, (context, rest) in enumerate(
      zip(contexts, continuations, strict=True)
    ):
      by_shape[bucket(len(context)), bucket(len(rest))].append(i)
      spend(len(context), len(rest))
    logprobs = [math.nan] * len(contexts)
    for (S, T), same in sorted(by_shape.items()):
      for first in range(0, len(same), rows):
        some = same[first : first + rows]
        pairs = [(contexts[i], [continuations[i]]) for i in some]
        batch = _padded(pairs, rows, S, T)
        on_devices = (decoder.layout.put(x, 'batch', None) for x in batch)
        logprobs_P1 = choice_logprobs(decoder, params, *on_devices)
        for i, x in zip(some, np.asarray(logprobs_P1)[:, 0], strict=False):
          logprobs[i] = float(x)
    _check_numbers(decoder, logprobs)
    return logprobs

  return logprob


@functools.partial(jax.jit, static_argnames='decoder')
def choice_logprobs(
  decoder: Decoder, params, prompts_PS, mask_PS, choices_BT, mask_BT
):
  """[P, C]: the log-probability of each choice after its prompt.

  Row p * C + c of `choices_BT` is choice c of prompt p.
  """
  P, B, T = prompts_PS.shape[0], *choices_BT.shape
  if T > 1:
    logprobs_BT, *_ = scoring.in_groups(
      decoder, params, prompts_PS, mask_PS, choices_BT, mask_BT
    )
    total_B = jnp.where(mask_BT > 0, logprobs_BT, 0.0).sum(1)
  else:
    # With choices of one token, the logits after the prompt are enough.
    out = decoder_lib.forward(decoder, params, prompts_PS, mask_PS)
    last_P = mask_PS.sum(1) - 1
    last_P1D = jnp.take_along_axis(
      out.hidden_BTD, last_P[:, None, None], axis=1
    )
    logits_PV = head.logits(decoder, params, last_P1D)[:, 0]
    choices_PC = choices_BT.reshape(P, B // P)
    total_PC = jnp.take_along_axis(
      jax.nn.log_softmax(logits_PV), choices_PC, axis=1
    )
    total_B = total_PC.reshape(B)
  total_PC = total_B.reshape(P, B // P)
  # Every host uses all of the results.
  replicated = decoder.layout.replicated()
  return jax.lax.with_sharding_constraint(total_PC, replicated)


def question(tokenizer: Tokenizer, prompt: str, *, chat: bool) -> list[int]:
  """Returns the token ids that a judge reads before it answers."""
  if chat:
    return tokenizer.encode_chat([{'role': 'user', 'content': prompt}])
  return _begin(tokenizer) + tokenizer.encode(prompt + AFTER_PROMPT)


def split(
  tokenizer: Tokenizer,
  prompt: str,
  *,
  chat: bool,
  answers: Sequence[str] = ANSWERS,
) -> tuple[list[int], list[list[int]]]:
  """Splits question and answers into (common ids, remaining ids per answer).

  The common ids are the question and what all answers begin with. An answer is
  encoded together with the text before it, as the model would write it, and
  split afterwards, because many tokenizers have one token for ' 0', so their
  models never see 'Score: ' with a space at the end.
  """
  if chat:
    begin = question(tokenizer, prompt, chat=True)
    whole = [begin + tokenizer.encode(answer) for answer in answers]
  else:
    begin, text = _begin(tokenizer), prompt + AFTER_PROMPT
    whole = [begin + tokenizer.encode(text + answer) for answer in answers]
  columns = zip(*whole, strict=False)
  same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
  length = sum(1 for _ in same)
  choices = [ids[length:] for ids in whole]
  if not all(choices):
    raise ValueError(
      f'answers {tuple(answers)}: with this tokenizer one is a prefix of '
      'another; expected answers that are not.'
    )
  return whole[0][:length], choices


def _begin(tokenizer: Tokenizer) -> list[int]:
  return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def _padded(questions, rows: int, S: int, T: int):
  """Returns (prompts, their mask, choices, their mask), padded on the right."""
  prompts_PS, mask_PS = pad_prompts(
    [context for context, _ in questions], rows, S
  )
  # A padding row has one token, since attention to nothing is undefined.
  mask_PS[len(questions) :, 0] = 1
  num_choices = len(questions[0][1])
  flat = [choice for _, choices in questions for choice in choices]
  choices_BT, mask_BT = pad_prompts(flat, rows * num_choices, T)
  return prompts_PS, mask_PS, choices_BT, mask_BT


def _check_numbers(decoder: Decoder, computed: Sequence):
  """Raises if every text gave NaN, because then the model must be broken.

  If only some did, each of those texts has no verdict.
  """
  if computed and all(np.isnan(numbers).any() for numbers in computed):
    where = f'the judge, reading {len(computed):,} texts'
    raise nan_error(where, 'its weights', decoder.compute.dtype)


def _warn_of_long(num_long: int, num_asked: int, room: int):
  if num_long:
    logger.warning(
      '%d of %d questions to the judge have more than max_prompt_tokens=%d '
      'tokens, so they get no verdict', num_long, num_asked, room,
    )  # fmt: skip
