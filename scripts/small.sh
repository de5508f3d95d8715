#!/usr/bin/env bash
# Trains and evaluates the rows of flags/small: scripts/small.sh "0 1 2" mnist_igam mnist_mixacm -- --data_dir=DIR
# First argument: seeds. Then the rows (all where none is named); what follows -- goes to every command.
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
make_environment
cd "$root"
seeds="${1:-0 1 2}"
rows=()
shift || true
while (($# > 0)) && [[ "$1" != "--" ]]; do
  rows+=("$1")
  shift
done
if (($# > 0)); then shift; fi
if ((${#rows[@]} == 0)); then
  for file in flags/small/mnist_*.flags; do rows+=("$(basename "$file" .flags)"); done
fi
for seed in $seeds; do
  for row in "${rows[@]}"; do
    "$python" -m tf_robust_transfer.train --flagfile="flags/small/$row.flags" --seed="$seed" \
      --run_dir="runs/small/seed$seed/$row" "$@"
  done
done
"$python" -m tf_robust_transfer.report --runs=runs/small
