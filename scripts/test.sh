#!/usr/bin/env bash
# Makes the environment with the test extras and runs the tests. Arguments go to pytest; paths are relative to the root
# of the repository:
#
#   scripts/test.sh                                  all but the slow tests, in two processes
#   scripts/test.sh -m slow                          the slow ones
#   scripts/test.sh -n 0 tests/pgd_test.py -k ball   one file in one process
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
make_environment test torch hub

parallel=yes
for argument in "$@"; do
  case "$argument" in
    -n* | --numprocesses* | --pdb) parallel=no ;;
  esac
done
if [ "$parallel" = yes ]; then
  # worksteal: the tests of one file share their fixtures and traced functions and stay in one process, but for those
  # that the other takes over at the end, when it has none left.
  set -- -n 2 --dist worksteal "$@"
  # Each process would start one thread for each core and they would wait for one another.
  export TF_NUM_INTRAOP_THREADS="${TF_NUM_INTRAOP_THREADS:-1}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi

export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
cd "$root"
exec "$python" -m pytest --durations=10 "$@"
