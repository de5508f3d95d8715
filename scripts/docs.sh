#!/usr/bin/env bash
# Makes the environment with the docs extra and builds the site into build/docs; a warning fails. It takes seconds, and
# nothing of TensorFlow is imported. Arguments go to sphinx-build:
#
#   scripts/docs.sh            then open build/docs/docs/index.html
#
# The pages of docs/reference are written by scripts/update_reference.py, scripts/update_teachers.py and
# scripts/update_cards.py.
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
make_environment docs

cd "$root"
exec "$python" -m sphinx -q -E -W --keep-going -n -c docs "$@" . build/docs
