"""Damaged files of every format, each read by its command in a process of its own.

Right is: exit code 2 with one line, or 0 where the damage does no harm; nothing executed, nothing
written, less than 2 GiB and 10 seconds beyond the import."""

import functools
import hashlib
import itertools
import os
import pathlib
import random
import shutil
import sys
import tempfile

import numpy as np

from scripts.torture import damages, kills, processes
from tf_robust_transfer import convert, evaluate, report, train
from tf_robust_transfer.evaluation import state

MOST_BYTES, MOST_SECONDS = 2 * 2**30, 10.0
EACH_OF_BYTES = 1  # damages of a format's bytes, each so often
_RUNNING = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
    "webbrowser.open",
)


def run(record, folder: pathlib.Path, seed: int, quick: bool) -> None:
    """Reads some 230 damaged files; quick: one in twenty."""
    import torch  # noqa: F401 - before the forks, as everything else

    good = folder / "good"
    made = processes.start(functools.partial(_make_good, good), folder=folder / "made")
    if made.wait(300) != 0:
        record.add("the good files", f"not made: {made.lines()[-1:]}")
        return
    cases = _cases()
    draw = random.Random(f"{seed} bad files")
    chosen = range(len(cases)) if not quick else draw.sample(range(len(cases)), len(cases) // 20)
    record.figures["damaged files"] = len(chosen)
    for index in chosen:
        _judge(record, folder, good, index, *cases[index], random.Random(f"{seed} {index}"))


def _cases():
    """(format, damage) of every file."""
    d = damages
    own = {
        "keras": d.KERAS,
        "h5": (),
        "pt": d.TORCH,
        "safetensors": d.SAFETENSORS,
        "tf1_index": d.TF1,
        "tf1_data": (),
        "npy": d.NPY,
        "state": d.STATE,
        "png": d.IMAGES,
        "jpg": (),
        "results": (*d.RESULTS, d.not_utf8),
        "flags": d.FLAGS,
        "run_flags": (d.not_utf8,),
        "checkpoint": (),
    }
    return [
        (name, damage)
        for name, of_format in own.items()
        for damage in (*(d.BYTES * EACH_OF_BYTES), *of_format)
    ]


def _where(name, place):
    """The file of a format in a case's folder."""
    return {
        "keras": place / "model.keras",
        "h5": place / "model.h5",
        "pt": place / "model.pt",
        "safetensors": place / "model.safetensors",
        "tf1_index": place / "tf1" / "checkpoint-100.index",
        "tf1_data": place / "tf1" / "checkpoint-100.data-00000-of-00001",
        "npy": place / "examples.npy",
        "state": place / "results.json.state.npz",
        "png": place / "images" / "a" / "0.png",
        "jpg": place / "images" / "b" / "0.jpg",
        "results": place / "run" / "results.json",
        "flags": place / "flags.txt",
        "run_flags": place / "run" / "flags.txt",
        "checkpoint": place / "stopped" / "checkpoints" / "ckpt-12.data-00000-of-00001",
    }[name]


def _command(name, place):
    """What reads the file."""
    output = f"--output={place.parent}/cwd/out.keras"
    evaluation = [
        f"--model={place}/whole.keras", "--dataset=digits", "--max_examples=20", "--eps=0.1"
    ]  # fmt: skip
    small = ["--smoke", "--method=natural", f"--run_dir={place.parent}/cwd/new"]
    calls = {
        "keras": (convert, [f"--model={place}/model.keras", output]),
        "h5": (convert, [f"--model={place}/model.h5", output]),
        "pt": (convert, [f"--model=robustbench:Wong2020Fast:{place}/model.pt", output]),
        "safetensors": (
            convert, [f"--model=robustbench:Wong2020Fast:{place}/model.safetensors", output]
        ),
        "tf1_index": (convert, [f"--model=madry_mnist:{place}/tf1", output]),
        "tf1_data": (convert, [f"--model=madry_mnist:{place}/tf1", output]),
        "npy": (evaluate, [*evaluation, f"--adversarial_examples={place}/examples.npy"]),
        "state": (
            evaluate, [*evaluation, "--attacks=fgsm,pgd2",
                       f"--output={place.parent}/cwd/results.json",
                       f"--state={place}/results.json.state.npz"],
        ),
        "png": (train, ["--check", f"--dataset=folder:{place}/images", "--image_size=8x8"]),
        "jpg": (train, ["--check", f"--dataset=folder:{place}/images", "--image_size=8x8"]),
        "results": (report, [f"--runs={place}/run"]),
        "flags": (train, [f"--flagfile={place}/flags.txt", "--check", *small]),
        "run_flags": (train, [*kills.TRAIN, f"--run_dir={place}/run"]),
        "checkpoint": (train, [*kills.TRAIN, f"--run_dir={place}/stopped"]),
    }  # fmt: skip
    main, arguments = calls[name]
    return functools.partial(main.main, arguments)


# Formats whose command writes into the folder when the damage does no harm.
_WRITES = ("run_flags", "checkpoint")


def _judge(record, folder, good, index, name, damage, draw):
    what = f"{name}: {damage.__name__.strip('_').replace('_', ' ')}"
    case = folder / f"case{index}"
    place = case / "input"
    needed = {"npy": "whole.keras", "state": "whole.keras"}.get(name)
    target = _where(name, place)
    top = target.relative_to(place).parts[0]
    place.mkdir(parents=True)
    for part in filter(None, {top, needed}):
        source = good / part
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, place / part)
    damage(target, draw)
    (case / "tmp").mkdir()
    (case / "cwd").mkdir()
    # Commands run by -m have the working folder on their path.
    (case / "cwd" / f"{damages.CANARY}.py").write_text(
        "import pathlib\n\n\ndef run(*_, **__):\n"
        f"    pathlib.Path({str(case / 'executed')!r}).touch()\n\n\nrun()\n"
    )
    before = _tree(folder, case)
    process = processes.start(
        functools.partial(_watched, _command(name, place), case),
        folder=case / "cwd",
        environment={"TMPDIR": str(case / "tmp"), "HOME": str(case / "tmp")},
    )
    # Of processor time, since others may use the machine.
    code = process.wait(8 * MOST_SECONDS, MOST_BYTES, MOST_SECONDS)
    lines = process.lines()
    problems = []
    if code is None:
        problems.append(f"ended at {process.cpu:.1f} s and {process.peak / 2**30:.1f} GiB")
    elif code == 2:
        errors = [line for line in lines if line.startswith("error: ")]
        if len(errors) != 1 or lines[-1] != errors[0]:
            problems.append(f"{len(lines)} lines: {' | '.join(lines)[:300]}")
    elif code != 0:
        problems.append(f"code {code}: {' | '.join(lines[-2:])[:300]}")
    audit = case / "audit"
    events = audit.read_text().split("\n") if audit.exists() else []
    if (case / "executed").exists() or any(events):
        problems.append(f"executed: {', '.join(filter(None, events))[:200] or 'the canary'}")
    if name not in _WRITES and code != 0:
        written = {*_tree(folder, case).items()} ^ {*before.items()}
        if written:
            problems.append(f"wrote {', '.join(sorted({path for path, _ in written}))[:300]}")
    record.add(what, "; ".join(problems), refused=int(code == 2), read=int(code == 0))
    for name, figure in (
        ("most MiB beyond the import", process.peak // 2**20),
        ("most seconds beyond the import", round(process.cpu, 1)),
    ):
        record.figures[name] = max(record.figures.get(name, 0), figure)
    if not problems:
        shutil.rmtree(case)


def _watched(command, case):
    """The command, with what it runs noted."""
    tempfile.tempdir = None
    sys.path.insert(0, "")
    heard = os.open(case / "audit", os.O_WRONLY | os.O_CREAT, 0o644)

    def hook(event, arguments):
        if event.startswith(_RUNNING):
            os.write(heard, f"{event} {str(arguments)[:100]}\n".encode())

    sys.addaudithook(hook)
    command()


def _tree(folder, case):
    """Path -> content of what lies in the case, and names beside it."""
    found = {path.name: "" for path in folder.iterdir()}
    for path in case.rglob("*"):
        own = path.suffix in (".out", ".err") or path.name == "audit" or "__pycache__" in path.parts
        if path.is_file() and not own:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _make_good(good):
    """Whole files of each format."""
    import keras
    import tensorflow as tf
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from tf_robust_transfer import data
    from tf_robust_transfer.checkpoints import save_model
    from tf_robust_transfer.runs.images import pixels

    good.mkdir(parents=True)
    keras.utils.set_random_seed(0)
    train.main([*kills.TRAIN, f"--run_dir={good}/run"])
    network = keras.models.load_model(good / "run" / "model.keras")
    for name in ("model.keras", "whole.keras"):
        save_model(network, good / name)
    network.save(good / "model.h5")
    test = data.load_data("digits", "test", max_examples=20)
    np.save(good / "examples.npy", pixels(test.images).reshape(20, -1))
    draw = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(*shape, generator=draw)
        for name, shape in (("conv1.weight", (64, 3, 3, 3)), ("linear.weight", (10, 512)))
    }
    torch.save(tensors, good / "model.pt")
    save_file(tensors, good / "model.safetensors")
    for kind, end in (("a", "png"), ("b", "jpg")):
        (good / "images" / kind).mkdir(parents=True)
        pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(good / "images" / kind / f"{i}.{end}")
    (good / "flags.txt").write_text("--dataset=digits\n--model=small_cnn\n")
    # A run that was stopped within its second epoch.
    shutil.copytree(good / "run", good / "stopped")
    for name in ("model.keras", "model.keras.md", "results.json", "input_gradients.png"):
        (good / "stopped" / name).unlink()
    shutil.rmtree(good / "stopped" / "checkpoints")
    _write_state(good, network, test)
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        for name, shape in (
            ("Variable", (5, 5, 1, 32)), ("Variable_1", (32,)), ("Variable_2", (5, 5, 32, 64)),
            ("Variable_3", (64,)), ("Variable_4", (3136, 1024)), ("Variable_5", (1024,)),
            ("Variable_6", (1024, 10)), ("Variable_7", (10,)),
        ):  # fmt: skip
            tf1.get_variable(name, initializer=tf.zeros(shape))
        session.run(tf1.global_variables_initializer())
        (good / "tf1").mkdir()
        tf1.train.Saver().save(session, str(good / "tf1" / "checkpoint"), global_step=100)


def _write_state(good, network, test):
    """The state of an evaluation, as it is before its end, and a stopped run's checkpoints."""
    from tf_robust_transfer.runs import callbacks, trainer

    path = good / "results.json.state.npz"
    keep = state.State.write

    def write(self, *args, **kwargs):
        keep(self, *args, **kwargs)
        if self.path.exists() and not path.exists():
            shutil.copyfile(self.path, path)

    state.State.write = write
    evaluate.main([
        f"--model={good}/whole.keras", "--dataset=digits", "--max_examples=20", "--eps=0.1",
        "--attacks=fgsm,pgd2", f"--output={good}/evaluated.json",
    ])  # fmt: skip
    state.State.write = keep
    stop = itertools.count()

    class Stop(callbacks.Checkpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if next(stop):
                raise KeyboardInterrupt

    trainer.callbacks.Checkpoint = Stop
    try:
        train.main([*kills.TRAIN, "--checkpoint_minutes=0", f"--run_dir={good}/stopped"])
    except SystemExit:
        pass
