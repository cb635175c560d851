"""Short names of the modules that settings come from.

Gin files say `losses.ppo` without an import, and a run's config.json records
`losses.ppo`. When a module moves, change its line here, so that gin files keep
working and runs resume.
"""

MODULES = {
  'advantages': 'rlpt_jax.algorithms.advantages',
  'brackets': 'rlpt_jax.rewards.brackets',
  'budget': 'rlpt_jax.llm.budget',
  'choice': 'rlpt_jax.rewards.choice',
  'cleaning': 'rlpt_jax.corpus.cleaning',
  'collect': 'rlpt_jax.rollout.collect',
  'collector': 'rlpt_jax.rollout.collector',
  'combine': 'rlpt_jax.rewards.combine',
  'config': 'rlpt_jax.data.config',
  'contamination': 'rlpt_jax.corpus.contamination',
  'documents': 'rlpt_jax.corpus.documents',
  'duplicates': 'rlpt_jax.corpus.duplicates',
  'extract': 'rlpt_jax.rewards.extract',
  'final_answer': 'rlpt_jax.rewards.final_answer',
  'game': 'rlpt_jax.rollout.game',
  'held_out': 'rlpt_jax.rollout.held_out',
  'judge': 'rlpt_jax.rewards.judge',
  'judges': 'rlpt_jax.inference.judges',
  'kl': 'rlpt_jax.algorithms.kl',
  'language': 'rlpt_jax.corpus.language',
  'layout': 'rlpt_jax.core.layout',
  'likelihood': 'rlpt_jax.rewards.likelihood',
  'losses': 'rlpt_jax.algorithms.losses',
  'mask_lessons': 'rlpt_jax.quickstart.mask_lessons',
  'mask_tasks': 'rlpt_jax.data.mask_tasks',
  'masks': 'rlpt_jax.data.masks',
  'math_verifier': 'rlpt_jax.rewards.math_verifier',
  'mistakes': 'rlpt_jax.rewards.mistakes',
  'models': 'rlpt_jax.models.config',
  'next_segment': 'rlpt_jax.evaluation.next_segment',
  'optimizer': 'rlpt_jax.training.optimizer',
  'paragraphs': 'rlpt_jax.corpus.paragraphs',
  'personal': 'rlpt_jax.corpus.personal',
  'quality': 'rlpt_jax.corpus.quality',
  'question_lessons': 'rlpt_jax.quickstart.question_lessons',
  'question_prompts': 'rlpt_jax.corpus.question_prompts',
  'questions': 'rlpt_jax.corpus.questions',
  'reductions': 'rlpt_jax.algorithms.reductions',
  'remote': 'rlpt_jax.llm.remote',
  'rollout_files': 'rlpt_jax.rollout.rollout_files',
  'rules': 'rlpt_jax.corpus.rules',
  'runs': 'rlpt_jax.runs.run_folder',
  'same_answer': 'rlpt_jax.rewards.same_answer',
  'sampling': 'rlpt_jax.rollout.sampling',
  'schedules': 'rlpt_jax.rollout.schedules',
  'scores': 'rlpt_jax.rewards.scores',
  'scoring': 'rlpt_jax.models.scoring',
  'segment': 'rlpt_jax.data.segment',
  'signatures': 'rlpt_jax.corpus.signatures',
  'sources': 'rlpt_jax.data.sources',
  'starts': 'rlpt_jax.rollout.jobs.starts',
  'tables': 'rlpt_jax.data.tables',
  'tasks': 'rlpt_jax.data.tasks',
  'text_match': 'rlpt_jax.rewards.text_match',
  'train_rl': 'rlpt_jax.programs.train_rl',
  'train_sft': 'rlpt_jax.programs.train_sft',
  'truth': 'rlpt_jax.quickstart.truth',
}
_NAMES = {module: name for name, module in MODULES.items()}


def short(module: str) -> str:
  """Returns the short name of a module, or its full name if it has none."""
  return _NAMES.get(module, module)
