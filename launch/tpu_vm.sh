#!/usr/bin/env bash
# Manages a TPU VM (one host or a pod), and runs rlpt on it.
set -euo pipefail

EXIT_AGAIN=75

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh create|setup|run|stop|resume|status|delete [--dry_run] [-- RLPT ARGUMENTS]

  create   asks for the TPU; with SPOT=1 as a spot VM, with QUEUED=1 in a queue
  setup    copies the last commit of this checkout to every host, installs it
  run      rlpt on every host, as one run: the arguments come after --. A
           sampler (-- sample ...) is a TPU of one host, with a NAME of its own
  stop     has the run save after its step and leave with 75
  resume   create, setup and run again after a preemption; a run goes on. 75:
           the TPU is not there yet, the same command again
  status   says what is there, and so what is paid for
  delete   gives it back

environment: NAME and ZONE; TYPE (v5litepod-64, v5p-32, ...), VERSION
  (v2-alpha-tpuv5-lite, v2-alpha-tpuv5, ...); PROJECT, SPOT, QUEUED if wanted.
  SHARED: a folder on a disk that you have mounted on all hosts; setup makes
  models, data, cache and runs links to what is there.
example:
  NAME=rlpt ZONE=us-west4-a TYPE=v5litepod-64 VERSION=v2-alpha-tpuv5-lite \
    launch/tpu_vm.sh run --dry_run -- train_rl \
    experiments/rl/rlpt_qwen3_4b_base.gin experiments/layouts/v5e_64.gin \
    --workdir runs/rlpt
TEXT
}

if [ $# -eq 0 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
  usage
  exit 0
fi
verb=$1
shift
dry_run=
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --dry_run) dry_run=1 ;;
    --) shift; arguments=("$@"); break ;;
    *) echo "tpu_vm.sh: $1: expected --dry_run, or -- and what rlpt is to do." >&2
       exit 2 ;;
  esac
  shift
done

: "${NAME:?a name for the TPU}" "${ZONE:?where it is to be, us-west4-a say}"
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
here=$(cd "$(dirname "$0")/.." && pwd)

do_it() {
  printf '%q ' "$@"
  echo
  [ -n "$dry_run" ] || "$@"
}

on_all_hosts() {
  do_it gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all \
    "--command=$1"
}

create() {
  : "${TYPE:?an accelerator type, v5litepod-64 say}"
  : "${VERSION:?a runtime version, v2-alpha-tpuv5-lite say}"
  if [ -n "${QUEUED:-}" ]; then
    do_it gcloud compute tpus queued-resources create "$NAME" "${where[@]}" \
      "--node-id=$NAME" "--accelerator-type=$TYPE" \
      "--runtime-version=$VERSION" ${SPOT:+--spot}
    echo "in the queue; status says when it is ACTIVE, then: setup"
  else
    do_it gcloud compute tpus tpu-vm create "$NAME" "${where[@]}" \
      "--accelerator-type=$TYPE" "--version=$VERSION" ${SPOT:+--spot}
  fi
}

setup() {
  # Copies what is committed. Runs and models are not: see SHARED.
  local archive install folder
  archive=${TMPDIR:-/tmp}/rlpt-$NAME.tar.gz
  if [ -z "$dry_run" ] && [ -n "$(git -C "$here" status --porcelain)" ]; then
    echo 'warning: what is not committed is not copied.' >&2
  fi
  do_it git -C "$here" archive --format=tar.gz "--output=$archive" HEAD
  do_it gcloud compute tpus tpu-vm scp "$archive" "$NAME:rlpt.tar.gz" \
    "${where[@]}" --worker=all
  # The machines' own Python, 3.10, is too old and may lack venv. uv brings one.
  install='mkdir -p rlpt && tar -xzf rlpt.tar.gz -C rlpt && cd rlpt'
  install+=' && python3 -m pip install --quiet --user uv'
  install+=' && python3 -m uv venv --quiet --allow-existing --python 3.11 .venv'
  install+=' && python3 -m uv pip install --quiet --editable ".[tpu]"'
  if [ -n "${SHARED:-}" ]; then
    for folder in models data cache runs; do
      printf -v folder 'mkdir -p %q && ln -sfn %q .' "$SHARED/$folder"{,}
      install+=" && $folder"
    done
  fi
  on_all_hosts "$install"
}

check_arguments() {
  if [ ${#arguments[@]} -eq 0 ]; then
    echo "tpu_vm.sh: $verb: expected -- and what rlpt is to do." >&2
    exit 2
  fi
}

run() {
  check_arguments
  local quoted distributed=' --distributed'
  # Each sampler is a process of its own.
  [ "${arguments[0]}" != sample ] || distributed=
  printf -v quoted '%q ' "${arguments[@]}"
  # exec, so that SIGTERM reaches rlpt, and not a shell around it.
  on_all_hosts "cd rlpt && exec .venv/bin/rlpt ${quoted% }$distributed"
}

stop() {
  # With the brackets, the pattern does not match the shell that runs pkill.
  on_all_hosts "pkill -TERM -f '[.]venv/bin/rlpt '"
}

delete() {
  if [ -n "${QUEUED:-}" ]; then
    # --force also deletes the TPU itself.
    do_it gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" \
      --force --quiet
  else
    do_it gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
  fi
}

status() {
  do_it gcloud compute tpus tpu-vm list "${where[@]}"
  do_it gcloud compute tpus queued-resources list "${where[@]}"
}

look_at_state() {
  # Lists all machines instead of asking for one. So a request that fails ends
  # the script, and is not taken for a machine that is gone.
  local kind=tpu-vm field=state
  if [ -n "${QUEUED:-}" ]; then
    kind=queued-resources field=state.state
  fi
  local command=(gcloud compute tpus "$kind" list "${where[@]}"
    "--format=value(name.basename(),$field)")
  if [ -n "$dry_run" ]; then
    printf '%q ' "${command[@]}" >&2
    echo >&2
    echo PREEMPTED
  else
    "${command[@]}" | awk -v name="$NAME" '$1 == name { print $2 }'
  fi
}

resume() {
  check_arguments
  local state
  state=$(look_at_state)
  case $state in
    READY) ;;
    ACTIVE) setup ;; # It may have come out of the queue just now.
    '' | PREEMPTED | TERMINATED | SUSPENDED | FAILED)
      echo "it is ${state:-not there}: asked for again"
      # A preempted TPU keeps its name until it is deleted.
      [ -z "$state" ] || delete
      create
      [ -z "${QUEUED:-}" ] || exit "$EXIT_AGAIN"
      setup
      ;;
    *)
      echo "it is $state: nothing is deleted or run; try again later" >&2
      exit "$EXIT_AGAIN"
      ;;
  esac
  run
}

case $verb in
  create | setup | run | stop | resume | status | delete) "$verb" ;;
  *)
    echo "tpu_vm.sh: $verb: expected create, setup, run, stop, resume, status or delete." >&2
    exit 2
    ;;
esac
