#!/usr/bin/env bash
# Evaluates in parts at once, one a GPU where there are any, and merges them:
#   scripts/evaluate_parts.sh 2 --model=runs/x --dataset=cifar10 --output=R.json
# First argument: how many parts; what follows are flags of evaluate. A part that died goes on when
# the same command is started again.
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
parts="$1"
shift
make_environment
gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
running=()
for ((i = 0; i < parts; i++)); do
  if ((gpus > 0)); then export CUDA_VISIBLE_DEVICES=$((i % gpus)); fi
  "$python" -m tf_robust_transfer.evaluate "$@" --part="$i/$parts" &
  running+=("$!")
done
failed=0
for process in "${running[@]}"; do wait "$process" || failed=$?; done
if ((failed > 0)); then exit "$failed"; fi
exec "$python" -m tf_robust_transfer.evaluate "$@" --merge
