#!/usr/bin/env bash
# Kills runs, fills disks, damages files, draws random inputs and loads the memory, all seeded, and prints counts; the
# figures are in docs/reliability.md. Tests of disks need root, for mounts.
#
#   scripts/torture.sh                  everything, at most 90 minutes on two cores; writes docs/results/torture.json
#   scripts/torture.sh kills fuzz       these sections of kills, disk, bad_files, fuzz, load
#   scripts/torture.sh --quick          a part of each, about a minute
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
make_environment test torch

export TF_NUM_INTRAOP_THREADS="${TF_NUM_INTRAOP_THREADS:-1}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
cd "$root"
"$python" -m scripts.torture.sections "$@"
