"""Serves a model over HTTP with OpenAI's API."""

import asyncio
import ipaddress
import os
import pathlib
import signal
import socket
import sys

import jax

from rlpt_jax.completions import progress
from rlpt_jax.completions.options import EngineOptions, check_options
from rlpt_jax.inference import model_files
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.sampling.table import Sizes
from rlpt_jax.serving import connections, http
from rlpt_jax.serving.protocol import Served

# At most this many completions of one call run at the same time; they share the
# cache of its prompt. Most calls ask for one completion, so the engine has room
# for as many prompts as it has slots.
GROUP = 4
# Connections in addition to those of running and waiting completions: clients
# keep some open between calls.
RESTING = 256


def serve(
  model: pathlib.Path,
  *,
  host: str = '127.0.0.1',
  port: int = 8000,
  name: str | None = None,
  token_env: str | None = None,
  step: int | None = None,
  max_prompt_tokens: int = 1024,
  max_new_tokens: int = 1024,
  max_waiting: int = 256,
  engine: EngineOptions = EngineOptions(),
):
  """Serves a model over HTTP with OpenAI's API.

  The routes are /v1/completions, /v1/chat/completions, /v1/models and /health.
  The server prints its address when it is ready; Ctrl-C or SIGTERM stops it.

  Args:
    model: A Hugging Face directory or a checkpoint directory.
    host: The address to listen on; 0.0.0.0 means all addresses.
    port: The port; 0 picks a free one.
    name: The model's name for clients; by default that of its directory.
    token_env: The name of an environment variable with the bearer token that
      clients must send.
    step: The checkpoint step; by default the newest.
    max_prompt_tokens: Longer prompts are refused.
    max_new_tokens: The most tokens that a call may ask for.
    max_waiting: The number of completions that may wait for a slot; calls
      beyond it are told to retry.
    engine: How the model is loaded and run.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f'{jax.process_count()} processes: expected one. A pod cannot serve yet; '
      'start rlpt serve on a single host.'
    )
  check_options(
    max_prompt_tokens=(max_prompt_tokens, 1, None),
    max_new_tokens=(max_new_tokens, 1, None),
    max_waiting=(max_waiting, 0, None),
  )
  engine.check()
  token = read_token(token_env)
  files = model_files.find(model, step=step)
  loaded_tokenizer = files.load_tokenizer(engine.tokenizer)
  # Bind before loading the weights, so that a port in use fails at once.
  with http.bind(host, port) as sock:
    if warning := exposure(sock, token_env):
      print(warning, file=sys.stderr)
    decoder = files.decoder(dtype=engine.dtype, tensor=engine.tensor)
    slots = decoder.layout.whole_batch(engine.slots)
    plan = Plan(
      slots=slots,
      own_tokens=engine.own_tokens,
      group=GROUP,
      prompts=slots,
      max_prompt_tokens=max_prompt_tokens,
      max_new_tokens=max_new_tokens,
      cache_dtype=engine.cache_dtype,
      sizes=Sizes(stops=max(1, len(loaded_tokenizer.eos_ids))),
    )
    plan_lib.check(plan, decoder)
    served = Served(
      name=name or model.resolve().name,
      tokenizer=loaded_tokenizer,
      vocab_size=files.config.vocab_size,
      max_prompt_tokens=max_prompt_tokens,
      max_new_tokens=max_new_tokens,
      max_samples=slots + max_waiting,
      group=GROUP,
    )
    files.warn_of_length(max_prompt_tokens, max_new_tokens)
    params = files.load_params(layout=decoder.layout, dtype=engine.dtype)
    limits = http.Limits(connections=room_for(served.max_samples))
    with Sampler(Engine(decoder, params, plan, consume=True)) as sampler:
      progress.waiting('compiling the sampler')
      warm_up(sampler)
      try:
        asyncio.run(_run(sampler, served, sock, token, limits))
      except RuntimeError as error:
        if isinstance(error.__cause__, FloatingPointError):
          raise FloatingPointError(str(error)) from error
        raise
  print('stopped')


async def _run(
  sampler: Sampler,
  served: Served,
  sock: socket.socket,
  token: str | None,
  limits: http.Limits,
):
  stopped = asyncio.Event()
  for number in (signal.SIGINT, signal.SIGTERM):
    asyncio.get_running_loop().add_signal_handler(number, stopped.set)

  def on_ready():
    print(f'serving {served.name} at {url(sock)}/v1', flush=True)

  await http.run(
    sampler, served, sock,
    token=token, stopped=stopped, on_ready=on_ready, limits=limits,
  )  # fmt: skip


def room_for(max_samples: int) -> int:
  """Returns the number of connections to accept; warns if it is too small."""
  wanted = max_samples + RESTING
  room = connections.most(wanted)
  if room < max_samples:
    print(
      f'warning: at most {room} connections, because the system allows no '
      f'more open files, while {max_samples} completions may run or wait. '
      'Raise the limit (ulimit -Hn) if that many clients connect at the same '
      'time.',
      file=sys.stderr,
    )
  return room


def read_token(variable: str | None) -> str | None:
  """Returns the bearer token that clients must send, if there is one.

  It comes from the environment, because other users can see a command line.
  """
  if variable is None:
    return None
  token = os.environ.get(variable, '').strip()
  if not token:
    raise ValueError(
      f'--token_env={variable}: expected an environment variable with a token; '
      f'it is not set or empty. Try: export {variable}=$(openssl rand -hex 32)'
    )
  return token


def exposure(sock: socket.socket, token_env: str | None) -> str | None:
  """Returns a warning if other machines can connect and no token is needed."""
  address = sock.getsockname()[0]
  if ipaddress.ip_address(address).is_loopback or token_env:
    return None
  return (
    f'warning: {address} can be reached from other machines and requires no '
    'token; set --token_env, or --host=127.0.0.1.'
  )


def url(sock: socket.socket) -> str:
  host, port, *_ = sock.getsockname()
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


def warm_up(sampler: Sampler):
  """Compiles what every completion needs, so that no client waits for it."""
  request = Request(prompt_tokens=(0,), id='warm_up', max_new_tokens=1)
  sampler.submit(request, deliver=lambda *piece: None)
  while not sampler.is_idle:
    sampler.step()
