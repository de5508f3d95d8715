#!/usr/bin/env bash
# The papers' claims on CIFAR-10 on one GPU; prints its plan, goes on where it was (scripts/cifar10.py --help):
#
#   scripts/cifar10.sh -- --data_dir=DIR                              teacher, MixACM, IGAM, natural, PGD-7, RKD; seed 0
#   scripts/cifar10.sh --students=trades --seeds=1,2 -- --data_dir=DIR
#   scripts/cifar10.sh --quick                                        a third of the images
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
# Where PY names a Python that has TensorFlow, as on a machine without a package registry, nothing is installed.
if [ -n "${PY:-}" ]; then python="$PY"; else make_environment; fi

cd "$root"
exec "$python" scripts/cifar10.py "$@"
