"""Names of the files in a run's folder.

config.json     the settings; a run with other settings is refused
checkpoints/    a run resumes from the newest of them
metrics.jsonl   one line per step; written together with timing.jsonl and
                tensorboard/
rollouts/       sampled completions, one file per step whose rollouts are kept
held_out/       rewards of held-out questions, one file per evaluation
samplers.json   how samplers of other processes reach the learner
weights/        the newest weights, for these samplers
unjudged.npz    completions that were sampled while the judge was unavailable
.lock           locked while a process works in the folder
"""

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
METRICS = 'metrics.jsonl'
TIMING = 'timing.jsonl'
TENSORBOARD = 'tensorboard'
ROLLOUTS = 'rollouts'
HELD_OUT = 'held_out'
SAMPLERS = 'samplers.json'
WEIGHTS = 'weights'
UNJUDGED = 'unjudged.npz'
LOCK = '.lock'
