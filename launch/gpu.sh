#!/usr/bin/env bash
# Runs rlpt on the GPUs of this machine, and restarts it after a crash:
#   launch/gpu.sh [--dry_run] train_rl experiments/rl/rlpt_qwen3_4b_base.gin \
#     experiments/layouts/h100_8.gin --workdir runs/rlpt
# A run that was told to stop saves and exits with 75, and so does this script.
# A run that crashes is tried TRIES times in all (3 by default). Status 2 is a
# mistake in the command, which is not tried again.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
if [ $# -eq 0 ]; then
  echo 'gpu.sh: expected what rlpt is to do: train_rl FILE.gin ...' >&2
  exit 2
fi
# By default, JAX leaves a quarter of a GPU's memory to other programs. There
# are none here.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
command=("${RLPT:-.venv/bin/rlpt}" "$@")
printf '%s ' "XLA_PYTHON_CLIENT_MEM_FRACTION=$XLA_PYTHON_CLIENT_MEM_FRACTION"
printf '%q ' "${command[@]}"
echo
[ -z "$dry_run" ] || exit 0
if ! command -v "${command[0]}" >/dev/null; then
  echo "gpu.sh: ${command[0]}: not there; install first, or set RLPT." >&2
  exit 2
fi

# A signal that tells this script to stop is passed on to the run, which is then
# not restarted.
told=
trap 'told=1; kill -TERM "$run" 2>/dev/null || true' TERM INT
for try in $(seq "${TRIES:-3}"); do
  "${command[@]}" &
  run=$!
  while true; do
    status=0
    wait "$run" || status=$?
    # Every signal ends `wait`, even if the run is still saving.
    kill -0 "$run" 2>/dev/null || break
  done
  case $status in
    0 | 2 | 75 | 130) exit "$status" ;;
  esac
  [ -z "$told" ] || exit "$status"
  echo "try $try ended with status $status" >&2
done
exit "$status"
