# Makes the Python environment .venv in the root of the repository. The scripts beside this one source it:
#
#   source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
#   make_environment [EXTRA ...]     # extras named in pyproject.toml
#   "$python" -m ...
#
# .venv/installed records what was installed and from which requirements, so a second start installs nothing and needs
# no network. It is written only after a complete install. Messages go to stderr. Exit code 2: no suitable Python.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
python="$root/.venv/bin/python"
stamp="$root/.venv/installed"

# Where Python is told to write no bytecode, as in many containers, each process would compile TensorFlow anew, for ten
# seconds: what our scripts start keeps it in .venv, and nothing is written elsewhere.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$root/.venv/bytecode}"
fi

# One line that changes when an install would: with the requirements, and with the folder, which .venv points into.
fingerprint() {
  { printf '%s\n' "$root" && cat "$root/pyproject.toml" "$root/requirements.txt"; } | cksum
}

# Prints the name of the first Python on PATH that the dependencies support.
find_python() {
  local candidate version seen=""
  for candidate in python3.11 python3 python3.12 python3.13; do
    version="$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
    case "$version" in
      3.11 | 3.12 | 3.13) echo "$candidate" && return ;;
    esac
    seen="$seen $candidate is $version;"
  done
  echo "environment.sh: needs Python 3.11, 3.12 or 3.13 on PATH;${seen:- found none;} install one and run again" >&2
  return 2
}

# Stops the script with a line that says what to do.
fail() {
  echo "environment.sh: $1" >&2
  exit 1
}

# PyTorch's own index has its small CPU builds, which PyPI lacks on Linux; asked for only where it answers, since pip
# would try it again and again for every package.
torch_index="https://download.pytorch.org/whl/cpu"
answers() {
  "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1/torch/" >/dev/null 2>&1
}

make_environment() {
  local current extras="" missing="" extra found log="$root/.venv/install.log"
  current="$(fingerprint)"
  # Extras of an earlier install stay, so that a start with fewer or other extras does not undo it.
  [ ! -f "$stamp" ] || extras="$(tail -n 1 "$stamp")"
  for extra in "$@"; do
    case " $extras " in
      *" $extra "*) ;;
      *) missing=yes extras="${extras:+$extras }$extra" ;;
    esac
  done
  if [ -x "$python" ] && [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$current" ] && [ -z "$missing" ]; then
    return
  fi

  # A venv whose making was interrupted has a python but no pip.
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    found="$(find_python)" || exit $?
    echo "Making $root/.venv with $found" >&2
    "$found" -m venv --clear "$root/.venv" >&2 ||
      fail "$found could not make .venv (on Debian and Ubuntu the package $found-venv may be missing)"
  fi

  case " $extras " in
    *" torch "*) ! answers "$torch_index" || export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:-} $torch_index" ;;
  esac
  rm -f "$stamp"
  echo "Installing what tf_robust_transfer needs${extras:+, with extras $extras} (minutes the first time)" >&2
  # Python compiles what it imports, a tenth of what is installed; all of it at once would double the time.
  # A dot for each package that pip finds; the whole output is in the log.
  (cd "$root" && "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile \
    --editable ".${extras:+[${extras// /,}]}" 2>&1) | tee "$log" | awk '
      /^(Collecting|Processing) / { printf "."; fflush(); dots = 1 }
      /^Installing collected packages/ { printf " copying files"; fflush(); dots = 1 }
      END { if (dots) print "" }' >&2 ||
    { grep -iE '^ *error' "$log" | head -n 5 >&2 || true; fail "installing failed, see $log; then run again"; }
  printf '%s\n%s\n' "$current" "$extras" >"$stamp.new"
  mv "$stamp.new" "$stamp"
}
