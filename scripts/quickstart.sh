#!/usr/bin/env bash
# Makes the environment and runs the main job on real images that need no download. Options go through:
#
#   scripts/quickstart.sh [--run_dir=DIR] [--seed=N]
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
make_environment

exec "$python" -m tf_robust_transfer.quickstart "$@"
