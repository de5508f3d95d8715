"""What a GPU is asked to show: steps of the methods, AutoAttack, the first result of `evaluate`,
beside PyTorch.

    python benchmarks/gpu.py --part=steps --output=steps.jsonl
    python benchmarks/gpu.py --part=autoattack --output=autoattack.jsonl --autoattack=CHECKOUT \\
        --model=MODEL --dataset=cifar10 --data_dir=DIR
    python benchmarks/gpu.py --part=evaluate --output=evaluate.jsonl --model=MODEL ...

A part begins no row after --minutes (4). Each row is a line of JSON in --output as soon as it is
measured; rows that are there are not measured again, so that the same command goes on. --rehearse
does it all with a tiny network, on a CPU too: its figures say nothing. PyTorch and the official
AutoAttack run in --torch_python, the machine's own Python, by torch_side.py. Nothing else may use
the device meanwhile."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import gpu_steps

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT = "bfloat16:xla=on:deterministic=off"  # but for the precision, train's own on a GPU
BEFORE = "bfloat16:xla=off:deterministic=on"  # train's own at 01ff0fc
KINDS = ("natural", "pgd7", "mixacm", "igam", "igam_adversarial")
# In the order of their worth: what is behind --minutes is left to the next call.
ROWS = [
    *(f"{kind}:{DEFAULT}" for kind in KINDS),
    *(f"{kind}:{BEFORE}" for kind in KINDS),
    *(f"torch:{kind}:bfloat16:eager" for kind in ("natural", "pgd7")),
    *(f"{kind}:bfloat16:xla=on:deterministic=on" for kind in KINDS),
    f"epoch_pgd7:{DEFAULT}",
    *(f"torch:{kind}:bfloat16:compile" for kind in ("natural", "pgd7")),
    *(f"{kind}:float32:xla=on:deterministic=off" for kind in ("natural", "pgd7")),
    *(f"{kind}:{DEFAULT}" for kind in ("fgsm", "trades")),
    *(f"torch:{kind}:float32:eager" for kind in ("natural", "pgd7")),
    "torch:fgsm:bfloat16:eager",
    *(f"{kind}:bfloat16:xla=off:deterministic=off" for kind in KINDS),
]
REHEARSED = [
    *(
        f"{kind}:bfloat16:xla={jit}:deterministic={deterministic}"
        for kind in ("natural", "igam_adversarial")
        for jit in ("on", "off")
        for deterministic in ("on", "off")
    ),
    f"epoch_natural:{DEFAULT}",
    "torch:pgd7:bfloat16:eager",
]
EPS = 8 / 255
NO_CACHE = "--tf_xla_persistent_cache_directory="  # so that first_steps_s holds what XLA takes
# What Python and the loader of our own Python need, and another Python must not see.
OURS = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH")


class Records:
    """The lines of a file of records.

    Args:
        path: JSON lines; made where it is not there.
        minutes: no row is begun after so many.
    """

    def __init__(self, path, minutes):
        self.path, self._end = path, time.monotonic() + 60 * minutes
        text = path.read_text() if path.exists() else ""
        self.rows = {}
        if text and not text.endswith("\n"):  # the last line was cut
            path.write_text(text + "\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.rows[row["row"]] = row
            except (ValueError, KeyError):
                pass

    def left(self) -> float:
        return self._end - time.monotonic()

    def wants(self, row: str) -> bool:
        """Whether there is time for a row that is not measured; one that failed is tried again."""
        return "failed" in self.rows.get(row, {"failed": ""}) and self.left() > 0

    def add(self, **row):
        self.rows[row["row"]] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def steps(options, records):
    """All rows, each in a process of its own. Those of a group import their library side by side;
    then one after the other has the device alone, to compile, tune its kernels and measure.
    """
    wanted = [row for row in options.rows if records.wants(row)]
    for begin in range(0, len(wanted), options.at_once):
        started = {row: start(row, options) for row in wanted[begin : begin + options.at_once]}
        for row, process in started.items():
            if records.left() > 0:
                measure(row, process, records)
            process.kill()
            process.wait()


def start(row, options):
    """The process of a row, which waits for a line when it is ready to compile."""
    sizes = [
        f"--{name}={getattr(options, name)}"
        for name in ("batch_size", "image_size", "channels", "seconds")
    ]
    if row.startswith("torch:"):
        command = [options.torch_python, HERE / "torch_side.py", "step", row[6:], *sizes]
        environment = {name: text for name, text in os.environ.items() if name not in OURS}
    else:
        command = [sys.executable, HERE / "gpu_steps.py", row, *sizes]
        command.append(f"--epoch_images={options.epoch_images}")
        environment = os.environ | {"TF_XLA_FLAGS": NO_CACHE}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def measure(row, process, records):
    """Adds what a process measures; one that takes over two minutes, or dies, is said to fail."""
    watch = threading.Timer(120, process.kill)
    line = process.stdout.readline().strip()
    watch.start()
    if line == "ready":
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
    watch.cancel()
    try:
        records.add(**json.loads(line) | {"row": row})
    except ValueError:
        records.add(row=row, failed="it died, or took over two minutes")


def torch_run(options, records, *arguments):
    """Adds the rows that torch_side.py prints, as they come, while there is time."""
    environment = {name: text for name, text in os.environ.items() if name not in OURS}
    process = subprocess.Popen(
        [options.torch_python, HERE / "torch_side.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    watch = threading.Timer(max(1.0, records.left()), process.kill)
    watch.start()
    for line in process.stdout:
        row = json.loads(line)
        records.add(**row | {"row": f"torch:{row['row']}"})
    watch.cancel()
    if process.wait():
        print(f"torch_side.py ended with {process.returncode}", file=sys.stderr)


def attacked(options):
    """(model, images, labels): of --model, or of a network that is not trained, on noise whose
    labels are what it says.
    """
    import numpy as np

    import tf_robust_transfer as rt
    from tf_robust_transfer.data.datasets import load_data

    if options.model:
        data = load_data(
            options.dataset,
            "test",
            data_dir=options.data_dir or None,
            max_examples=options.examples,
        )
        images = data.images.astype(np.float32) / np.float32(255)
        return rt.load_model(options.model), images, data.labels
    model = gpu_steps.network(options, "float32")
    shape = (options.examples, options.image_size, options.image_size, 3)
    images = np.random.default_rng(0).random(shape).astype(np.float32)
    return model, images, np.argmax(model.predict(images, verbose=0), 1)


def twin(model, path, images, labels):
    """The weights under the names of PyTorch's twin, with images and logits to compare."""
    import keras
    import numpy as np

    from tf_robust_transfer.ops.precision import full_float32

    arrays = {"mean": np.zeros(3, "float32"), "std": np.ones(3, "float32")}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            arrays["mean"] = keras.ops.convert_to_numpy(layer.mean).reshape(-1)
            arrays["std"] = keras.ops.convert_to_numpy(layer.variance).reshape(-1) ** 0.5
        values = {v.name: keras.ops.convert_to_numpy(v) for v in layer.weights}
        if "kernel" in values and values["kernel"].ndim == 4:
            arrays[f"{layer.name}.weight"] = values["kernel"].transpose(3, 2, 0, 1)
        elif "kernel" in values:
            arrays[f"{layer.name}.weight"] = values["kernel"].T
            arrays[f"{layer.name}.bias"] = values["bias"]
        elif "gamma" in values:
            for ours, theirs in (
                ("gamma", "weight"),
                ("beta", "bias"),
                ("moving_mean", "running_mean"),
                ("moving_variance", "running_var"),
            ):
                arrays[f"{layer.name}.{theirs}"] = values[ours]
    with full_float32():
        expected = model(images[:16], training=False)
    np.savez(path, images=images, labels=labels, expected=expected, **arrays)


def autoattack(options, records):
    """Ours with what is compiled included and a second time, then the official one."""
    import numpy as np

    import tf_robust_transfer as rt
    from tf_robust_transfer.runs import device

    device.prepare()
    model, images, labels = attacked(options)
    threat_model = rt.ThreatModel("linf", options.eps)

    def ours(run):
        if not records.wants(run):
            return
        begun = time.perf_counter()
        result = rt.evaluate_robustness(
            model,
            images,
            labels,
            threat_model=threat_model,
            attacks=("autoattack",),
            batch_size=options.attack_batch_size,
            check_model=False,
        )
        records.add(
            row=run,
            seconds=time.perf_counter() - begun,
            accuracy=result.accuracy["autoattack"],
            right="".join("01"[int(flag)] for flag in result.correct["autoattack"]),
            examples=len(labels),
            device=device.record(precision="float32", jit=False)["device"],
        )

    ours("first")
    if options.autoattack and records.wants("torch:official"):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "twin.npz"
            twin(model, path, images, labels)
            torch_run(
                options,
                records,
                *("autoattack", path, f"--checkout={options.autoattack}", f"--eps={options.eps}"),
                f"--batch_size={options.attack_batch_size}",
            )
    ours("second")
    mine, official = (records.rows.get(row) for row in ("first", "torch:official"))
    if mine and official and "same_flags" not in records.rows:
        flags = [np.array(list(row["right"])) for row in (mine, official)]
        records.add(
            row="same_flags",
            share=float((flags[0] == flags[1]).mean()),
            official_over_ours=official["seconds"] / mine["seconds"],
        )


def evaluate(options, records):
    """Seconds from the start of `evaluate --attacks=pgd20` to its table: with an empty cache of
    compiled programs, and with what that left.
    """
    import tf_robust_transfer as rt

    with tempfile.TemporaryDirectory() as folder:
        spec, data = options.model, [f"--dataset={options.dataset}"]
        if not spec:
            spec = f"{folder}/model.keras"
            model = rt.build_model("small_cnn", (8, 8, 1), 10)
            rt.save_model(model, spec)
            data = ["--dataset=digits"]
        data += [f"--data_dir={options.data_dir}"] if options.data_dir else []
        both = ("empty cache", "filled cache")
        # The second needs what the first has left, measured or not.
        for row in both if records.wants(both[1]) else ():
            begun = time.perf_counter()
            command = [sys.executable, "-m", "tf_robust_transfer.evaluate", f"--model={spec}"]
            command += [*data, "--attacks=pgd20", f"--max_examples={options.examples}"]
            command += [f"--eps={options.eps}", f"--batch_size={options.attack_batch_size}"]
            ended = subprocess.run(
                command, env=os.environ | {"XDG_CACHE_HOME": folder}, capture_output=True, text=True
            )
            seconds = time.perf_counter() - begun
            lines = (ended.stdout if not ended.returncode else ended.stderr).strip().splitlines()
            if ended.returncode:
                records.add(row=row, failed=lines[-1] if lines else "", code=ended.returncode)
                return
            if records.wants(row):
                records.add(row=row, seconds=seconds, code=0, said=lines[-4:])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"steps": steps, "autoattack": autoattack, "evaluate": evaluate}
    parser.add_argument("--part", choices=parts, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON lines")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes")
    parser.add_argument("--torch_python", default="python3", help="a Python that has PyTorch")
    parser.add_argument("--autoattack", help="a checkout of github.com/fra31/auto-attack")
    parser.add_argument("--model", default="", help="a PreAct-ResNet-18: see rt.load_model")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=EPS)
    parser.add_argument("--batch_size", type=int, default=128, help="of training steps")
    parser.add_argument("--attack_batch_size", type=int, default=500)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=64, help="of the network's first group")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each row, once compiled")
    parser.add_argument("--epoch_images", type=int, default=50_000)
    parser.add_argument(
        "--at_once", type=int, default=os.cpu_count() or 1, help="rows that import side by side"
    )
    options = parser.parse_args()
    options.rows = ROWS
    if options.rehearse:
        options.batch_size, options.image_size, options.channels, options.seconds = 4, 8, 2, 0.05
        options.examples, options.attack_batch_size, options.epoch_images = 8, 8, 8
        options.rows = REHEARSED
    return options, parts[options.part]


def main():
    options, part = parse_arguments()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    part(options, Records(options.output, options.minutes))


if __name__ == "__main__":
    main()
