"""Scripts of launch/: clean to shellcheck, and a dry run that does nothing."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(
  path for path in (ROOT / 'launch').iterdir() if path.suffix != '.md'
)
RUN = ('train_rl', 'a.gin', 'b.gin', 'x.y = 3', '--workdir', 'runs/a b')


def _run(tmp_path, script, *arguments, path='', **environment):
  """What a script prints, in an empty folder."""
  result = subprocess.run(
    ['bash', str(ROOT / 'launch' / script), *arguments],
    cwd=tmp_path, capture_output=True, text=True, check=False,
    env={'PATH': f'{path}{os.environ["PATH"]}', 'RLPT': 'rlpt'} | environment,
  )  # fmt: skip
  return result


def test_shellcheck_has_no_complaint():
  if not shutil.which('shellcheck'):
    message = (
      'the scripts of launch/ are not checked: apt-get install shellcheck'
    )
    if os.environ.get('CI'):
      pytest.fail(message, pytrace=False)
    pytest.skip(message)
  assert len(SCRIPTS) == 4
  result = subprocess.run(
    ['shellcheck', *map(str, SCRIPTS)],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stdout


@pytest.fixture
def no_tools(tmp_path):
  """A PATH in front whose tools say so if they are called."""
  (tmp_path / 'bin').mkdir()
  for name in ('gcloud', 'srun', 'sbatch', 'rlpt', 'vllm', 'git', 'scontrol'):
    tool = tmp_path / 'bin' / name
    tool.write_text(f'#!/bin/sh\ntouch {tmp_path}/called\n')
    tool.chmod(0o755)
  yield f'{tmp_path}/bin:'
  assert not (tmp_path / 'called').exists()


MEMORY = 'XLA_PYTHON_CLIENT_MEM_FRACTION=0.92'
SAMPLER = ('sample', *RUN[1:])
TPU = {'NAME': 'n', 'ZONE': 'z', 'TYPE': 'v5litepod-64', 'VERSION': 'v'}


@pytest.mark.parametrize(
  ('script', 'arguments', 'environment', 'expected'),
  [
    ('gpu.sh', ('--dry_run', *RUN), {}, [MEMORY, 'rlpt', *RUN]),
    (
      'slurm.sbatch', ('--dry_run', *RUN), {},
      [MEMORY, 'srun', '--kill-on-bad-exit=0', 'rlpt', *RUN, '--distributed'],
    ),
    (
      'slurm.sbatch', ('--dry_run', *SAMPLER), {},
      [MEMORY, 'srun', '--kill-on-bad-exit=0', 'rlpt', *SAMPLER],
    ),
    ('gpu.sh', ('--dry_run', *SAMPLER), {}, [MEMORY, 'rlpt', *SAMPLER]),
    (
      'judge_server.sh', ('--dry_run', 'vllm', 'm', '--seed', '1'),
      {'JUDGE_NAME': 'mine'},
      'vllm serve m --served-model-name mine --host 127.0.0.1 --port 8000 '
      '--seed 1',
    ),
    (
      'judge_server.sh', ('--dry_run', 'rlpt', 'm'), {'TOKEN_ENV': 'T'},
      'rlpt serve m --name judge --host 127.0.0.1 --port 8000 --dtype bfloat16 '
      '--max_prompt_tokens 2048 --token_env T',
    ),
    (
      'tpu_vm.sh', ('create', '--dry_run'), TPU | {'SPOT': '1'},
      'gcloud compute tpus tpu-vm create n --zone=z '
      '--accelerator-type=v5litepod-64 --version=v --spot',
    ),
    (
      'tpu_vm.sh', ('delete', '--dry_run'), TPU | {'PROJECT': 'p'},
      'gcloud compute tpus tpu-vm delete n --zone=z --project=p --quiet',
    ),
    (
      'tpu_vm.sh', ('create', '--dry_run'), TPU | {'QUEUED': '1'},
      'gcloud compute tpus queued-resources create n --zone=z --node-id=n '
      '--accelerator-type=v5litepod-64 --runtime-version=v',
    ),
  ],
  ids=str,
)  # fmt: skip
def test_a_dry_run_says_what_it_would_do(
  script, arguments, environment, expected, tmp_path, no_tools
):
  result = _run(tmp_path, script, *arguments, path=no_tools, **environment)
  assert result.returncode == 0, result.stderr
  if isinstance(expected, str):
    expected = expected.split()
  assert shlex.split(result.stdout.splitlines()[0]) == expected


@pytest.mark.parametrize(
  ('run', 'options'), [(RUN, ['--distributed']), (SAMPLER, [])]
)
def test_a_pod_runs_one_command_on_all_hosts(run, options, tmp_path, no_tools):
  arguments = ('resume', '--dry_run', '--', *run)
  result = _run(tmp_path, 'tpu_vm.sh', *arguments, path=no_tools, **TPU)
  assert result.returncode == 0, result.stderr
  verbs = re.findall(r'tpu-vm (\w+)', result.stdout)
  assert verbs == ['delete', 'create', 'scp', 'ssh', 'ssh']
  command = shlex.split(result.stdout.splitlines()[-1])
  assert '--worker=all' in command
  (remote,) = (x for x in command if x.startswith('--command='))
  command = shlex.split(remote.removeprefix('--command='))
  assert command[:4] == ['cd', 'rlpt', '&&', 'exec']
  assert command[4:] == ['.venv/bin/rlpt', *run, *options]


@pytest.mark.parametrize(
  ('listed', 'queued', 'verbs', 'status'),
  [
    ('other PREEMPTED\nn READY', '', ['ssh'], 0),
    ('n PREEMPTED', '', ['delete', 'create', 'scp', 'ssh', 'ssh'], 0),
    ('n2 READY', '', ['create', 'scp', 'ssh', 'ssh'], 0),
    ('n REPAIRING', '', [], 75),
    ('n WAITING_FOR_RESOURCES', '1', [], 75),
    ('n SUSPENDED', '1', ['delete', 'create'], 75),
    ('n ACTIVE', '1', ['scp', 'ssh', 'ssh'], 0),
    (None, '', [], 1),  # No answer is not a machine that is gone.
  ],
  ids=str,
)
def test_only_what_is_gone_is_deleted(listed, queued, verbs, status, tmp_path):
  (tmp_path / 'git').write_text('#!/bin/sh\n')
  (tmp_path / 'gcloud').write_text(
    f'#!/bin/sh\necho "$4" >>{tmp_path}/said\n'
    + 'if [ "$4" = list ]; then\n'
    + ('exit 1\n' if listed is None else f"echo '{listed}'\n")
    + 'fi\n'
  )
  for name in ('git', 'gcloud'):
    (tmp_path / name).chmod(0o755)
  arguments, environment = ('resume', '--', *RUN), TPU | {'QUEUED': queued}
  result = _run(
    tmp_path, 'tpu_vm.sh', *arguments, path=f'{tmp_path}:', **environment
  )
  assert result.returncode == status, result.stderr
  assert (tmp_path / 'said').read_text().split() == ['list', *verbs]


def test_what_the_hosts_share_is_linked(tmp_path, no_tools):
  shared = tmp_path / 'a disk'
  result = _run(
    tmp_path, 'tpu_vm.sh', 'setup', '--dry_run', path=no_tools,
    SHARED=str(shared), **TPU,
  )  # fmt: skip
  (remote,) = re.findall(r'--command=.*', result.stdout.splitlines()[-1])
  (remote,) = shlex.split(remote)
  links = remote[remote.index('mkdir -p /') :]
  (tmp_path / 'there').mkdir()
  for _ in range(2):  # It may be set up again.
    subprocess.run(['bash', '-c', links], cwd=tmp_path / 'there', check=True)
  for name in ('models', 'data', 'cache', 'runs'):
    assert (tmp_path / 'there' / name).resolve() == shared / name


@pytest.mark.parametrize(
  ('statuses', 'status', 'times'),
  [((0,), 0, 1), ((75,), 75, 1), ((2,), 2, 1), ((1, 0), 0, 2), ((1,), 1, 3)],
  ids=str,
)
def test_a_crash_is_tried_again_and_75_is_not(
  statuses, status, times, tmp_path
):
  tool = tmp_path / 'rlpt'
  tool.write_text(
    '#!/bin/bash\necho x >>calls\nstatuses=('
    + ' '.join(map(str, statuses))
    + ')\nn=$(wc -l <calls)\nexit "${statuses[n - 1]:-${statuses[-1]}}"\n'
  )
  tool.chmod(0o755)
  result = _run(tmp_path, 'gpu.sh', 'train_rl', RLPT=str(tool))
  assert result.returncode == status
  assert len((tmp_path / 'calls').read_text().split()) == times


@pytest.mark.parametrize('saves', [True, False])
def test_a_run_that_is_told_to_leave_is_waited_for_and_left(saves, tmp_path):
  tool = tmp_path / 'rlpt'
  tool.write_text(
    '#!/bin/bash\necho x >>calls\n'
    + ('trap "told=1" TERM\n' if saves else '')
    + 'touch started\nwhile [ ! -e ended ]; do sleep 0.1; done\n'
    'exit "${told:+75}"\n'
  )
  tool.chmod(0o755)
  script = subprocess.Popen(
    ['bash', str(ROOT / 'launch/gpu.sh'), 'train_rl'],
    cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    env={'PATH': os.environ['PATH'], 'RLPT': str(tool)},
  )  # fmt: skip
  while not (tmp_path / 'started').exists():
    time.sleep(0.05)
  for _ in range(2):  # Twice, as people do.
    script.send_signal(signal.SIGTERM)
    time.sleep(0.3)
  (tmp_path / 'ended').touch()
  assert script.wait(timeout=120) == (75 if saves else 128 + signal.SIGTERM)
  assert len((tmp_path / 'calls').read_text().split()) == 1


@pytest.mark.parametrize(
  ('status', 'state', 'queued'),
  [
    (0, 'RUNNING', False),
    (1, 'RUNNING', False),
    (75, 'RUNNING', True),
    (75, '', True),
    (75, 'COMPLETING', False),  # Cancelled, by who wants it no more.
  ],
)
def test_slurm_queues_again_what_was_told_to_leave(
  status, state, queued, tmp_path
):
  for name, code in (('srun', status), ('scontrol', 0)):
    tool = tmp_path / name
    tool.write_text(f'#!/bin/sh\necho "{name} $*" >>calls\nexit {code}\n')
  (tmp_path / 'squeue').write_text(f'#!/bin/sh\necho {state}\n')
  for name in ('srun', 'scontrol', 'squeue'):
    (tmp_path / name).chmod(0o755)
  result = _run(
    tmp_path, 'slurm.sbatch', 'train_rl', path=f'{tmp_path}:', SLURM_JOB_ID='7'
  )
  assert result.returncode == status
  called = (tmp_path / 'calls').read_text().splitlines()
  assert called[1:] == (['scontrol requeue 7'] if queued else [])


@pytest.mark.parametrize(
  ('script', 'arguments', 'message'),
  [
    ('gpu.sh', (), 'expected what rlpt is to do'),
    ('slurm.sbatch', ('--dry_run',), 'expected what rlpt is to do'),
    ('judge_server.sh', ('rlpt',), 'expected rlpt or vllm, and a model'),
    ('judge_server.sh', ('tgi', 'm'), 'tgi: expected rlpt or vllm'),
    ('judge_server.sh', ('vllm', 'm'), 'T: expected the token'),
    ('tpu_vm.sh', ('run', '--dry_run'), 'expected -- and what rlpt is to do'),
    ('tpu_vm.sh', ('resume',), 'expected -- and what rlpt is to do'),
    ('tpu_vm.sh', ('start', '--dry_run'), 'start: expected create, setup'),
    ('tpu_vm.sh', ('create', '--dryrun'), '--dryrun: expected --dry_run'),
  ],
  ids=str,
)
def test_a_mistake_is_said_in_one_line(script, arguments, message, tmp_path):
  result = _run(tmp_path, script, *arguments, TOKEN_ENV='T', **TPU)
  assert result.returncode == 2
  assert message in result.stderr
  assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
  ('script', 'arguments'),
  [('gpu.sh', RUN), ('judge_server.sh', ('rlpt', 'm'))],
)
def test_what_is_not_installed_is_no_crash(script, arguments, tmp_path):
  result = _run(tmp_path, script, *arguments, RLPT='no/rlpt')
  assert result.returncode == 2
  assert 'no/rlpt: not there' in result.stderr
  assert len(result.stderr.splitlines()) == 1


def test_no_hyper_parameter_is_here():
  for script in SCRIPTS:
    text = script.read_text()
    assert 'learning_rate' not in text and 'Config.' not in text
