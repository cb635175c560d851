"""What benchmarks/methods.py compares: a table of cells.

A cell is a method and its settings. Each cell says what it decides, often
against `rlpt`, the anchor: predictions of conclusions, rewarded by the truth,
16 prompts with 8 samples each, on-policy, without KL.

On-policy, with one update for each batch, PPO, CISPO and GSPO have the same
gradient but for the reduction, since every ratio is 1. They can differ only if
samples are older than the policy, so the cells `stale_...` sample up to four
updates ahead.

Logits are float32 whatever the rest is (models.Compute), so `bf16` says what a
bfloat16 sampler and learner cost with a float32 head; without that head, there
is nothing to run.

Some cells are not their papers' methods to the letter:

  rpt        chooses sentences by their entropies, RPT chooses tokens; a model
             of this size has learned to predict whole sentences only
  verifree   has VeriFree's reward, but a frozen model computes it, and the true
             answer is not trained on; rlp and vr_cli are frozen as well
  webscale_rl   has questions with the flaws that a model of the quickstart's
             size was measured to make (benchmarks/README.md), written by the
             world's generator, so the cost of writing them does not count
"""

import dataclasses

SFT, RL, EXPERTS = 'train_sft', 'train_rl', 'expert_iteration'


@dataclasses.dataclass(frozen=True)
class Cell:
  """A method, how it is trained, and what it decides.

  program: the command that trains it, or expert_iteration: rounds of sampling
    and train_sft on what is right.
  experiment: its gin file in experiments/small.
  settings: lines of gin behind it.
  then: the gin file of what goes on after the first budget; all later ones
    train by it.
  rlvr_after: whether the same RLVR follows after the last budget.
  baseline: the cell that it is compared with.
  family: the comparisons that are corrected together; see FAMILIES.
  """

  name: str
  question: str
  program: str
  experiment: str
  settings: tuple[str, ...] = ()
  _: dataclasses.KW_ONLY
  then: str | None = None
  rlvr_after: bool = False
  baseline: str | None = 'rlpt'
  family: str = ''


STALE = (
  'train_rl.Config.schedule = @schedules.Pipelined()',
  'schedules.Pipelined.max_staleness = 4',
  'train_rl.Hardware.slots = 640',
)
GRPO = ('train_rl.Config.reduction = @reductions.completion_mean',)
DAPO = (
  'train_rl.Config.loss = @losses.ppo',
  'losses.ppo.clip_high = 0.28',
  'train_rl.Config.reduction = @reductions.prompt_mean',
  'train_rl.Config.collect = @collect.Refill()',
)
DR_GRPO = (
  'train_rl.Config.advantages = @advantages.group_centered',
  'train_rl.Config.reduction = @reductions.constant',
  'reductions.constant.max_tokens = 64',
)


def groups(samples: int, prompts: int) -> tuple[str, ...]:
  """Returns the settings of another group size."""
  return (
    f'sampling.Sampling.samples = {samples}',
    f'train_rl.Config.prompts = {prompts}',
  )


def erring(kind: str, percent: int) -> Cell:
  """Returns the cell in which a judge errs in a share of cases."""
  verdicts = {'accepts': 'wrong', 'rejects': 'right'}[kind]
  return Cell(
    f'{kind}_{percent:02}',
    f'what does it cost if {percent}% of {verdicts} answers get the other '
    'verdict?',
    RL,
    'rlpt',
    (
      'mistakes.Erring.reward = @truth.truth',
      f'mistakes.Erring.{kind} = {percent / 100}',
      'train_rl.Config.reward = @mistakes.Erring()',
    ),
  )


# Family -> its cells. The families were fixed before any result was looked at.
FAMILIES = {
  'without rewards': (
    Cell(
      'ntp',
      'is plain next-token training as good?',
      SFT,
      'ntp',
      rlvr_after=True,
    ),
    Cell(
      'sft_sloppy',
      'are more sloppy demonstrations as good?',
      SFT,
      'sft',
      rlvr_after=True,
    ),
    Cell(
      'sft_clean',
      'what are demonstrations worth that are all right?',
      SFT,
      'sft',
      ("demonstrations/sources.Files.files = 'world/clean.jsonl'",),
      rlvr_after=True,
    ),
    Cell(
      'expert_iteration',
      'is SFT on what is right as good as RL?',
      EXPERTS,
      'sft',
      rlvr_after=True,
    ),
  ),
  'what RLPT asks for': (
    Cell(
      'rlpt',
      'the anchor of this comparison',
      RL,
      'rlpt',
      rlvr_after=True,
      baseline=None,
    ),
    Cell(
      'rlpt_strict',
      'does strictness teach more than the prefix reward?',
      RL,
      'rlpt',
      ('tasks.rlpt.following = 1',),
    ),
    Cell(
      'rlpt_asr',
      'is ASR enough?',
      RL,
      'rlpt',
      (
        'config.Data.task = @tasks.Asr()',
        'tasks.Asr.max_prompt_tokens = 128',
      ),
    ),
    Cell(
      'rlpt_msr',
      'is MSR enough?',
      RL,
      'rlpt',
      (
        'config.Data.task = @tasks.Msr()',
        'tasks.Msr.max_prompt_tokens = 128',
      ),
    ),
    Cell(
      'rlpt_lambda_025',
      'does it matter how often MSR is asked (lambda 0.25)?',
      RL,
      'rlpt',
      ('tasks.rlpt.msr_weight = 0.25',),
    ),
    Cell(
      'rlpt_lambda_050',
      'does it matter how often MSR is asked (lambda 0.5)?',
      RL,
      'rlpt',
      ('tasks.rlpt.msr_weight = 0.5',),
    ),
    Cell(
      'rlpt_judge',
      'what does a real judge cost, in errors and in compute?',
      RL,
      'rlpt_judge',
      rlvr_after=True,
    ),
  ),
  'rewards without a judge': (
    Cell(
      'rlp',
      'does information gain teach as much as verdicts?',
      RL,
      'rlp',
      rlvr_after=True,
    ),
    Cell(
      'vr_cli',
      'does perplexity gain teach as much as verdicts?',
      RL,
      'vr_cli',
      rlvr_after=True,
    ),
    Cell(
      'verifree',
      'does the probability of the truth teach as much?',
      RL,
      'verifree',
      rlvr_after=True,
    ),
  ),
  'who chooses': (
    Cell(
      'rpt',
      'is it as good to predict what is uncertain?',
      RL,
      'uncertain_sentences',
      rlvr_after=True,
    ),
    Cell(
      'pretrain_zero',
      'does a policy that chooses what is hidden learn more?',
      RL,
      'pretrain_zero',
      rlvr_after=True,
    ),
    Cell(
      'random_sentences',
      'is chance as good as that policy?',
      RL,
      'random_sentences',
      baseline='pretrain_zero',
    ),
  ),
  'questions': (
    Cell(
      'webscale_rl',
      'do questions made of the documents teach more than they?',
      RL,
      'rl_questions',
      ("texts/sources.Files.files = 'world/made_questions.jsonl'",),
      rlvr_after=True,
    ),
    Cell(
      'rlvr',
      'how far do questions get that are all right?',
      RL,
      'rl_right_questions',
      rlvr_after=True,
    ),
    Cell(
      'rlpt_then_rlvr',
      'is it better to begin with RLPT than with RLVR?',
      RL,
      'rlpt',
      then='rl_right_questions',
      baseline='rlvr',
    ),
  ),
  'losses': (
    Cell(
      'grpo', 'does the mean over completions cost something?', RL, 'rlpt', GRPO
    ),
    Cell(
      'dapo',
      'does it pay to replace groups that teach nothing?',
      RL,
      'rlpt',
      DAPO,
    ),
    Cell(
      'dr_grpo', 'does it pay to leave out both divisions?', RL, 'rlpt', DR_GRPO
    ),
    Cell(
      'stale_ppo', 'does PPO-clip suffer from old samples?', RL, 'rlpt', STALE
    ),
    Cell(
      'stale_dapo',
      'does DAPO suffer less?',
      RL,
      'rlpt',
      STALE + DAPO,
      baseline='stale_ppo',
    ),
    Cell(
      'stale_cispo',
      'does CISPO suffer less?',
      RL,
      'rlpt',
      (*STALE, 'train_rl.Config.loss = @losses.cispo'),
      baseline='stale_ppo',
    ),
    Cell(
      'stale_gspo',
      'does GSPO suffer less?',
      RL,
      'rlpt',
      (*STALE, *GRPO, 'train_rl.Config.loss = @losses.gspo'),
      baseline='stale_ppo',
    ),
    Cell(
      'stale_dr_grpo',
      'does Dr. GRPO suffer less?',
      RL,
      'rlpt',
      STALE + DR_GRPO,
      baseline='stale_ppo',
    ),
  ),
  'groups and KL': (
    Cell('group_4', 'are many small groups better?', RL, 'rlpt', groups(4, 32)),
    Cell('group_16', 'are few large groups better?', RL, 'rlpt', groups(16, 8)),
    Cell(
      'kl',
      'does a KL penalty (k3, 0.01) save what would be forgotten?',
      RL,
      'rlpt',
      ('train_rl.Config.kl = @kl.InLoss()', 'kl.InLoss.weight = 0.01'),
    ),
  ),
  'a judge that errs': (
    *(erring('accepts', percent) for percent in (5, 10, 20)),
    *(erring('rejects', percent) for percent in (5, 10, 20)),
  ),
  'precision': (
    Cell(
      'bf16',
      'what does bfloat16 cost, but for the head?',
      RL,
      'rlpt',
      ("models.Compute.dtype = 'bfloat16'",),
    ),
    Cell(
      'bf16_cache',
      'does it cost something to sample from a bfloat16 cache?',
      RL,
      'rlpt',
      ("train_rl.Config.cache_dtype = 'bfloat16'",),
    ),
  ),
}
CELLS = tuple(
  dataclasses.replace(cell, family=family)
  for family, cells in FAMILIES.items()
  for cell in cells
)
# What was not tried, and why.
LEFT_OUT = {
  'a head in bfloat16': 'logits are float32 in all of our models',
  'next tokens as RPT chooses them': (
    'models of this size cannot go on in mid-sentence (benchmarks/README.md)'
  ),
  'all combinations of loss, group size and KL': (
    'each is changed alone; together they would take some hundred hours'
  ),
}


def named(names: list[str] | None = None) -> list[Cell]:
  """Returns the cells of these names, or all of them."""
  known = {cell.name: cell for cell in CELLS}
  if unknown := [name for name in names or () if name not in known]:
    raise ValueError(
      f'{", ".join(unknown)}: no such cell; expected some of '
      f'{", ".join(known)}.'
    )
  return [known[name] for name in names] if names else list(CELLS)
