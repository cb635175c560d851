#!/usr/bin/env bash
# rlpt on the GPUs of this machine, started again until it is done:
#   launch/gpu.sh [--dry_run] train_rl experiments/rl/rlpt_qwen3_4b_base.gin \
#     experiments/layouts/h100_8.gin --workdir runs/rlpt
# 75 is a run that was told to leave and saved: this script leaves with it.
# What crashes is tried TRIES times (3); 2 is a mistake in the command.
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
# JAX leaves a quarter of a GPU to others unless told; there are none.
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

# What tells this script to leave, tells the run, which is not begun again then.
told=
trap 'told=1; kill -TERM "$run" 2>/dev/null || true' TERM INT
for try in $(seq "${TRIES:-3}"); do
  "${command[@]}" &
  run=$!
  while true; do
    status=0
    wait "$run" || status=$?
    # A signal ends the wait, each time, but not the run.
    kill -0 "$run" 2>/dev/null || break
  done
  case $status in
    0 | 2 | 75 | 130) exit "$status" ;;
  esac
  [ -z "$told" ] || exit "$status"
  echo "try $try ended with status $status" >&2
done
exit "$status"
