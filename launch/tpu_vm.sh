#!/usr/bin/env bash
# A TPU VM, one host or a pod: create, setup, run, resume, delete.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh create|setup|run|resume|status|delete [--dry_run] [-- RLPT ARGUMENTS]

  create   asks for the TPU; with SPOT=1 as a spot VM, with QUEUED=1 in a queue
  setup    copies this checkout to every host and installs it
  run      rlpt on every host, as one run: the arguments come after --
  resume   create, setup and run again after a preemption; a run goes on
  status   says what is there, and so what is paid for
  delete   gives it back

environment: NAME and ZONE; TYPE (v5litepod-64, v5p-32, ...), VERSION
  (v2-alpha-tpuv5-lite, v2-alpha-tpuv5, ...); PROJECT, SPOT, QUEUED if wanted.
example:
  NAME=rlpt ZONE=us-west4-a TYPE=v5litepod-64 VERSION=v2-alpha-tpuv5-lite \
    launch/tpu_vm.sh run --dry_run -- train_rl \
    experiments/rl/rlpt_qwen3_4b_base.gin experiments/layouts/v5e_64.gin \
    --workdir /mnt/shared/runs/rlpt
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
  # What git knows, no runs and no models: those are on the shared disk.
  local archive
  archive=${TMPDIR:-/tmp}/rlpt-$NAME.tar.gz
  do_it git -C "$here" archive --format=tar.gz "--output=$archive" HEAD
  do_it gcloud compute tpus tpu-vm scp "$archive" "$NAME:rlpt.tar.gz" \
    "${where[@]}" --worker=all
  on_all_hosts 'mkdir -p rlpt && tar -xzf rlpt.tar.gz -C rlpt && cd rlpt && python3 -m venv .venv && .venv/bin/pip install --quiet --editable ".[tpu]"'
}

run() {
  if [ ${#arguments[@]} -eq 0 ]; then
    echo 'tpu_vm.sh: run: expected -- and what rlpt is to do.' >&2
    exit 2
  fi
  local quoted
  printf -v quoted '%q ' "${arguments[@]}"
  on_all_hosts "cd rlpt && .venv/bin/rlpt $quoted--distributed"
}

delete() {
  if [ -n "${QUEUED:-}" ]; then
    # With --force the TPU itself goes too.
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
  local command=(gcloud compute tpus tpu-vm describe "$NAME" "${where[@]}"
    '--format=value(state)')
  if [ -n "$dry_run" ]; then
    printf '%q ' "${command[@]}" >&2
    echo >&2
  else
    "${command[@]}" 2>/dev/null || true
  fi
}

case $verb in
  create | setup | run | status | delete) "$verb" ;;
  resume)
    # What was preempted stays as a name until it is deleted; what is READY is
    # not to be deleted.
    state=$(look_at_state)
    if [ "$state" != READY ]; then
      echo "it is ${state:-not there}: deleted, and asked for again"
      delete || true
      create
      if [ -n "${QUEUED:-}" ]; then
        echo 'when it is ACTIVE: setup, and run with the same arguments'
        exit 0
      fi
      setup
    fi
    run
    ;;
  *)
    echo "tpu_vm.sh: $verb: expected create, setup, run, resume, status or delete." >&2
    exit 2
    ;;
esac
