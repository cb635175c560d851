"""Models of one architecture share a sampler; others get one of their own."""

from rlpt_jax.completions.current_model import CurrentModel
from rlpt_jax.completions.options import EngineOptions, plan_for
from rlpt_jax.inference import model_files


def test_models_share_a_sampler(capsys):
  options = EngineOptions(slots=4)
  plan = plan_for(
    options, prompts=3, samples=1, max_prompt_tokens=4, max_new_tokens=2,
    stop_ids=1,
  )  # fmt: skip
  first, same, other = (
    model_files.find(f'random:{name}')
    for name in ('tiny_qwen3', 'tiny_qwen3', 'tiny_llama')
  )
  with CurrentModel(plan, options) as current:
    current.load(first, about='first: ')
    sampler, fingerprint = current.sampler, current.fingerprint
    assert 'first: qwen3, ' in capsys.readouterr().out
    current.load(first)
    assert sampler.version == 0 and not capsys.readouterr().out
    current.load(same)
    assert current.sampler is sampler and sampler.version == 1
    assert current.fingerprint == fingerprint
    current.load(other)
    assert current.sampler is not sampler
    assert current.fingerprint != fingerprint
    # Slots split evenly over the devices.
    assert current.sampler.plan.slots == 8
