#!/usr/bin/env bash
# Evaluates in parts at once, one a GPU where there are any, and merges them:
#   scripts/evaluate_parts.sh 2 --model=runs/x --dataset=cifar10 --output=R.json
# First argument: how many parts; what follows are flags of evaluate. A part that died goes on when
# the same command is started again.
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
parts="$1"
shift
make_environment
# Of those that one may use.
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
else
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
running=()
for ((i = 0; i < parts; i++)); do
  if ((${#gpus[@]} > 0)); then export CUDA_VISIBLE_DEVICES="${gpus[i % ${#gpus[@]}]}"; fi
  "$python" -m tf_robust_transfer.evaluate "$@" --part="$i/$parts" &
  running+=("$!")
done
failed=0
for process in "${running[@]}"; do wait "$process" || failed=$?; done
if ((failed > 0)); then exit "$failed"; fi
exec "$python" -m tf_robust_transfer.evaluate "$@" --merge
