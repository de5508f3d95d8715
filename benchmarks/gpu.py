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
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
# In the order of their worth: what is behind --minutes is left to the next call.
ROUNDS = (("natural", "pgd7"), ("mixacm", "igam", "igam_adversarial", "fgsm", "trades"))
TORCH_KINDS = ("natural", "pgd7", "fgsm")
EPS = 8 / 255
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
        return row not in self.rows and self.left() > 0

    def add(self, **row):
        self.rows[row["row"]] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def network(options, precision):
    import keras

    from tf_robust_transfer.models import build_model
    from tf_robust_transfer.models.precision import with_precision

    keras.utils.set_random_seed(0)
    shape = (options.image_size, options.image_size, 3)
    made = build_model("preact_resnet_18", shape, 10, base_channels=options.channels)
    return with_precision(made, precision) if precision != "float32" else made


def method(kind, precision, options):
    from tf_robust_transfer import methods
    from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
    from tf_robust_transfer.models import build_discriminator

    student, threat_model = network(options, precision), ThreatModel("linf", EPS)
    if kind == "natural":
        return methods.Natural(student=student)
    if kind == "trades":
        attack = PGD(10, 2 / 255, loss="kl")
        return methods.TRADES(student=student, threat_model=threat_model, attack=attack)
    if kind in ("fgsm", "pgd7"):
        attack = FGSM(1.25 * EPS, random_start=True) if kind == "fgsm" else PGD(7, 2 / 255)
        return methods.AdversarialTraining(
            student=student, threat_model=threat_model, attack=attack
        )
    if kind == "mixacm":
        return methods.MixACM(student=student, teacher=network(options, precision))
    given = {"teacher": network(options, "float32")}
    if kind == "igam":
        return methods.IGAM(student=student, lambda_adv=0.0, **given)
    shape = (options.image_size, options.image_size, 3)
    discriminator = build_discriminator(shape, channels=(8, 16, 32, 64))
    return methods.IGAM(
        student=student, lambda_adv=1.0, discriminator=discriminator, discriminator_every=5, **given
    )


def step_row(kind, precision, jit, deterministic):
    return f"{kind}:{precision}:xla={jit}:deterministic={deterministic}"


def device_name():
    from tf_robust_transfer.runs import device

    return device.record(precision="float32", jit=False)["device"]


def measure_steps(options, records):
    """The rows of one setting of determinism, which holds for this process."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tf_robust_transfer.runs import device

    device.prepare()
    device.set_determinism(options.deterministic == "on")
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    batch = (
        tf.constant(rng.random(shape), tf.float32),
        tf.constant(rng.integers(0, 10, options.batch_size), tf.int32),
    )
    data = tf.data.Dataset.from_tensors(batch).repeat()
    for precision, kind, jit in itertools.product(
        options.precisions.split(","), options.kinds.split(","), ("on", "off")
    ):
        row = step_row(kind, precision, jit, options.deterministic)
        if not records.wants(row):
            continue
        begun = time.perf_counter()
        try:
            made = method(kind, precision, options)
            optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
            made.compile(optimizer, jit_compile=jit == "on")
            made.make_train_function()
            iterator = iter(data)
            for _ in range(6):  # IGAM's every kind of step
                logs = made.train_function(iterator)
            float(logs["loss"])
            first, count, start = time.perf_counter() - begun, 0, time.perf_counter()
            while time.perf_counter() - start < options.seconds:
                for _ in range(5):
                    logs = made.train_function(iterator)
                float(logs["loss"])
                count += 5
            seconds = (time.perf_counter() - start) / count
        except Exception as error:  # one that does not fit leaves the others
            records.add(row=row, failed=f"{type(error).__name__}: {error}"[:300])
            continue
        records.add(
            row=row,
            ms=1000 * seconds,
            images_per_second=options.batch_size / seconds,
            first_steps_s=first,
            library=f"tensorflow {tf.__version__}",
            device=device_name(),
        )


def steps(options, records):
    """All rows, each setting of determinism in a process of its own; after the first round
    PyTorch's.
    """
    for number, kinds in enumerate(options.rounds):
        for deterministic in ("off", "on"):
            wanted = [
                step_row(kind, precision, jit, deterministic)
                for kind in kinds
                for precision in options.precisions.split(",")
                for jit in ("on", "off")
            ]
            if any(map(records.wants, wanted)):
                started = [
                    *(sys.executable, __file__, "--part=steps", f"--deterministic={deterministic}"),
                    *(f"--kinds={','.join(kinds)}", f"--minutes={records.left() / 60}"),
                    *(f"--output={records.path}", f"--precisions={options.precisions}"),
                    *same_sizes(options),
                ]
                subprocess.run(started, check=False)
                records.__init__(records.path, records.left() / 60)
        if number == 0:
            torch_steps(options, records)


def same_sizes(options):
    names = ("batch_size", "image_size", "channels", "seconds")
    return [f"--{name}={getattr(options, name)}" for name in names]


def torch_run(options, records, *arguments):
    """Adds the rows that torch_side.py prints, as they come, while there is time."""
    environment = {name: text for name, text in os.environ.items() if name not in OURS}
    process = subprocess.Popen(
        [options.torch_python, HERE / "torch_side.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    watch = threading.Timer(max(1.0, records.left()), process.kill)  # compiling may take minutes
    watch.start()
    for line in process.stdout:
        row = json.loads(line)
        records.add(**row | {"row": f"torch:{row['row']}"})
    watch.cancel()
    if process.wait():
        print(f"torch_side.py ended with {process.returncode}", file=sys.stderr)


def torch_steps(options, records):
    rows = [
        f"{kind}:{precision}:{how}"
        for how in ("eager", "compile")
        for precision in options.precisions.split(",")
        for kind in TORCH_KINDS
    ]
    rows = [row for row in rows if records.wants(f"torch:{row}")]
    if rows:
        torch_run(options, records, "steps", *same_sizes(options), *rows)


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
    model = network(options, "float32")
    shape = (options.examples, options.image_size, options.image_size, 3)
    images = np.random.default_rng(0).random(shape).astype(np.float32)
    return model, images, np.argmax(model.predict(images, verbose=0), 1)


def twin(model, path, images, labels):
    """The weights under the names of PyTorch's twin, with images and logits to compare."""
    import keras
    import numpy as np

    arrays = {}
    for layer in model.layers:
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
    for run in ("first", "second"):
        if not records.wants(run):
            continue
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
            device=device_name(),
        )
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
    ours, official = (records.rows.get(row) for row in ("first", "torch:official"))
    if ours and official and "same_flags" not in records.rows:
        flags = [np.array(list(row["right"])) for row in (ours, official)]
        records.add(
            row="same_flags",
            share=float((flags[0] == flags[1]).mean()),
            official_over_ours=official["seconds"] / ours["seconds"],
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
            if row not in records.rows:
                records.add(row=row, seconds=seconds, code=ended.returncode, said=lines[-4:])


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
    parser.add_argument("--seconds", type=float, default=2.5, help="of each row, once compiled")
    # What the part steps asks of a process of its own.
    parser.add_argument("--deterministic", choices=("on", "off"), help=argparse.SUPPRESS)
    parser.add_argument("--kinds", help=argparse.SUPPRESS)
    parser.add_argument("--precisions", default="bfloat16,float32")
    options = parser.parse_args()
    options.rounds = ROUNDS
    if options.rehearse:
        options.batch_size, options.image_size, options.channels, options.seconds = 4, 8, 2, 0.05
        options.examples, options.attack_batch_size, options.precisions = 8, 8, "bfloat16"
        options.rounds = (("natural",), ("igam_adversarial",))
    return options, parts[options.part]


def main():
    options, part = parse_arguments()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    records = Records(options.output, options.minutes)
    (measure_steps if options.deterministic else part)(options, records)


if __name__ == "__main__":
    main()
