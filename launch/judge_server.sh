#!/usr/bin/env bash
# Serves a judge behind a URL, on a machine of its own:
#   launch/judge_server.sh [--dry_run] rlpt|vllm MODEL [MORE OPTIONS]
# A run reaches it with remote.Endpoint.url http://THIS_MACHINE:8000/v1 and
# remote.Endpoint.model judge, or JUDGE_NAME if that is set. It listens on PORT
# (default 8000) of HOST, whose default, 127.0.0.1, is for runs on this machine
# only. For a run elsewhere, set HOST=0.0.0.0 and use a token: TOKEN_ENV here,
# and remote.Endpoint.key_env in the run, name the variable that holds it.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
if [ $# -lt 2 ]; then
  echo 'judge_server.sh: expected rlpt or vllm, and a model.' >&2
  exit 2
fi
server=$1 model=$2
shift 2
name=${JUDGE_NAME:-judge} host=${HOST:-127.0.0.1} port=${PORT:-8000}
case $server in
  rlpt)
    command=("${RLPT:-.venv/bin/rlpt}" serve "$model" --name "$name"
      --host "$host" --port "$port" --dtype bfloat16 --max_prompt_tokens 2048
      ${TOKEN_ENV:+--token_env "$TOKEN_ENV"} "$@")
    ;;
  vllm)
    # vllm gets the token from VLLM_API_KEY: all users can see a command line.
    if [ -n "${TOKEN_ENV:-}" ] && [ -z "$dry_run" ]; then
      # With an empty token, vllm would let everyone in.
      if [ -z "${!TOKEN_ENV:-}" ]; then
        echo "judge_server.sh: $TOKEN_ENV: expected the token in it." >&2
        exit 2
      fi
      export VLLM_API_KEY=${!TOKEN_ENV}
    fi
    command=(vllm serve "$model" --served-model-name "$name" --host "$host"
      --port "$port" "$@")
    ;;
  *)
    echo "judge_server.sh: $server: expected rlpt or vllm." >&2
    exit 2
    ;;
esac
printf '%q ' "${command[@]}"
echo
[ -z "$dry_run" ] || exit 0
if ! command -v "${command[0]}" >/dev/null; then
  echo "judge_server.sh: ${command[0]}: not there; install it first." >&2
  exit 2
fi
exec "${command[@]}"
