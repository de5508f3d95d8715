#!/usr/bin/env bash
# What a GPU has to show, in the order of its worth, in at most ten minutes; a run that is cut off leaves its records.
#
#   scripts/gpu_check.sh OUT [MODEL] [DATA_DIR] [CHECKOUT]
#   scripts/gpu_check.sh --rehearse OUT ["" "" CHECKOUT]      tiny sizes, on a CPU too
#
# OUT: folder of the records; the same command goes on there. PACK: a file X.tar.gz that has OUT after each part.
# MODEL: a PreAct-ResNet-18 to attack, of cifar10 in DATA_DIR. CHECKOUT: of github.com/fra31/auto-attack. PY: the Python that has TensorFlow, by default that of .venv
# (nothing is installed). TORCH_PY: the one that has PyTorch, by default python3. PARTS: these parts alone, such as
# "device steps". On a machine without a package registry see pack.py beside the project's shared data:
# . ./env.sh; PY=$PY scripts/gpu_check.sh ...
set -uo pipefail
rehearse=""
if [ "${1:-}" = --rehearse ]; then rehearse=--rehearse && shift; fi
out="${1:?usage: scripts/gpu_check.sh [--rehearse] OUT [MODEL] [DATA_DIR] [CHECKOUT]}"
model="${2:-}" data="${3:-}" checkout="${4:-}"
mkdir -p "$out" && out="$(cd -- "$out" && pwd)"
if [ -n "${PACK:-}" ]; then PACK="$(cd -- "$(dirname -- "$PACK")" && pwd)/$(basename -- "$PACK")"; fi
# Other SPECs than paths stay as they are.
if [ -e "$model" ]; then model="$(realpath -m -- "$model")"; fi
if [ -n "$data" ]; then data="$(realpath -m -- "$data")"; fi
if [ -n "$checkout" ]; then checkout="$(realpath -m -- "$checkout")"; fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python="${PY:-.venv/bin/python}" torch="${TORCH_PY:-python3}"
if ! command -v "$python" >/dev/null; then
  echo "gpu_check.sh: no Python at $python; run scripts/test.sh once, or set PY" >&2
  exit 3
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}" PYTHONUNBUFFERED=1
# A slow machine that rehearses may take longer.
end=$((SECONDS + ${SECONDS_IN_ALL:-590})) factor="${PART_FACTOR:-1}"

pack() { if [ -n "${PACK:-}" ]; then tar czf "$PACK.new" -C "$out" . && mv "$PACK.new" "$PACK"; fi; }

# part NAME SECONDS COMMAND...: at most so long and no longer than is left; a line about its end in OUT/parts.txt.
part() {
  local name="$1" most=$(($2 * factor)) left=$((end - SECONDS)) begun=$SECONDS code=0
  shift 2
  case " ${PARTS:-$name} " in *" $name "*) ;; *) return ;; esac
  if ((left < 10)); then echo "$name: no time left" | tee -a "$out/parts.txt" && return; fi
  export limit=$((most < left ? most : left))
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  echo "$name: code $code, $((SECONDS - begun)) s; $(grep -v '^$' "$out/$name.log" | tail -n 1 | cut -c 1-160)" | tee -a "$out/parts.txt"
  pack
  return "$code"
}

# Begins nothing in its last 20 seconds.
gpu() {
  local name="$1"
  shift
  "$python" benchmarks/gpu.py --part="$name" --output="$out/$name.jsonl" --torch_python="$torch" \
    --minutes="$("$python" -c "print(max($limit - 20, 5) / 60)")" \
    ${model:+--model="$model"} ${data:+--data_dir="$data"} ${checkout:+--autoattack="$checkout"} $rehearse "$@"
}
export -f gpu
export python out torch model data checkout rehearse factor

small=(--dataset=digits --method=adversarial_training --attacks=pgd20 --max_examples=100 --epochs=40 --batch_size=64)
if [ -n "$rehearse" ]; then small+=(--train_fraction=0.2 --model_options=width=1 --train_attack_steps=1 --epochs=10 --attacks=fgsm); fi

if ! part device 60 "$python" -c 'import sys, tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
for gpu in gpus or ["no GPU"]: print(gpu)
sys.exit(0 if gpus or sys.argv[1:] else 3)' ${rehearse:+"$rehearse"}; then
  echo "gpu_check.sh: TensorFlow finds no GPU; --rehearse goes on without one" >&2
  exit 3
fi
part steps 150 bash -c 'gpu steps'
# A kill and a resume, as auto chooses and to the bit: the last lines say whether the weights are those of a run alone.
# Its networks are no record.
runs="${RUNS:-$(mktemp -d)}"
part resume 150 "$python" scripts/kill_and_resume.py "$runs" -- "${small[@]}"
part autoattack 240 bash -c 'gpu autoattack --examples=300'
part evaluate 80 bash -c 'gpu evaluate'
# As many processes as the host has cores for; TESTS: of these files alone.
if [ -n "$rehearse" ]; then
  part tests 60 "$python" -m pytest -q -p no:cacheprovider -m gpu tests --co
else
  part tests 590 "$python" -m pytest -q -p no:cacheprovider -n "${TEST_PROCESSES:-auto}" -m "gpu or not slow" ${TESTS:-tests}
fi
cat "$out/parts.txt"
