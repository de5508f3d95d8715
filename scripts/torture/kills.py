"""Runs killed by SIGKILL: at random moments, and inside their writes.

A run that was killed is started again until it ends. Then all that it leaves has to be what a run
in one piece leaves: weights and flags bit for bit, figures too, no other file, no lock."""

import functools
import hashlib
import json
import pathlib
import random
import re
import shutil
import time
import zipfile

import numpy as np

from scripts.torture import processes
from tf_robust_transfer import convert, data, evaluate, train
from tf_robust_transfer.data import tiny_imagenet
from tf_robust_transfer.evaluation import state

TRAIN = (
    "--dataset=digits",
    "--batch_size=64",
    "--train_fraction=0.3",
    "--epochs=2",
    "--optimizer=adam",
    "--learning_rate=0.002",
    "--eps=0.1",
    "--attacks=fgsm",
    "--max_examples=40",
    "--watch_examples=0",
    "--checkpoint_minutes=0.0005",
    "--distribution_strategy=one_device",
)
_LONGEST = 180  # seconds of a run
_PAUSE = "TF_ROBUST_TRANSFER_TEST_PAUSE"


class Job:
    """A command that is killed.

    Attributes:
        name: of the command.
        run: function of a folder, which it works in.
        result: function of that folder: what has to be equal.
    """

    def __init__(self, name, run, result):
        self.name, self.run, self.result = name, run, result

    def start(self, folder, pause=""):
        return processes.start(
            functools.partial(self.run, folder),
            folder=folder.with_name(f"{folder.name}.log"),
            environment={_PAUSE: pause} if pause else {},
        )


def run(record, folder: pathlib.Path, seed: int, quick: bool) -> None:
    """Kills each command 20 times, ten inside writes; quick: `train` once in each way."""
    trained = folder / "trained"
    wholes = []
    for job in _jobs(trained)[: 1 if quick else None]:
        reference = folder / job.name / "whole"
        reference.parent.mkdir(parents=True)
        marks = folder / job.name / "marks"
        process = job.start(reference, f"-1:0:{marks}")
        code = process.wait(_LONGEST)
        seconds = time.monotonic() - process.started
        if code != 0:
            record.add(f"{job.name}, in one piece", f"code {code}: {process.lines()[-1:]}")
            continue
        if job.name == "train":
            shutil.copytree(reference, trained)
        points = marks.read_text().splitlines() if marks.exists() else []
        draw = random.Random(f"{seed} {job.name}")
        wholes.append((job, reference, job.result(reference), points, seconds, draw))
    if not quick:
        _owners(record, folder)
    for index in range(1 if quick else 10):
        for job, reference, expected, points, seconds, draw in wholes:
            twice = index % 2 == 1 or quick
            _killed_at_random(record, job, reference, expected, seconds, draw, index, twice)
            _killed_in_a_write(record, job, reference, expected, points, seconds, draw, index)


def _killed_at_random(record, job, reference, expected, seconds, draw, index, twice):
    folder = reference.with_name(f"random{index}")
    kills = []
    for _ in range(2 if twice else 1):
        moment = draw.uniform(0.1, 0.9) * seconds
        process = job.start(folder)
        while process.poll() is None and time.monotonic() - process.started < moment:
            time.sleep(0.002)
        kills.append(process.poll() is None)
        process.kill()
    name = f"{job.name}, at a random moment" + (", twice" if twice else "")
    _judge(record, name, job, folder, expected, kills)


def _killed_in_a_write(record, job, reference, expected, points, seconds, draw, index):
    if not points:  # TFDS writes by itself: within its writing, then
        return _killed_at_random(record, job, reference, expected, seconds, draw, 100 + index, True)
    folder = reference.with_name(f"write{index}")
    mark = folder.with_name(f"write{index}.mark")
    # One of each file in turn, so that none is left out.
    by_file = {}
    for line in points:
        number, what = line.split(" ", 1)
        by_file.setdefault(pathlib.Path(what.split()[-1]).name, []).append(int(number))
    numbers = by_file[sorted(by_file)[index % len(by_file)]]
    kills = []
    # The second time while it resumes, wherever that point comes then.
    for _ in range(1 + index % 2):
        mark.unlink(missing_ok=True)
        inside = draw.random() < 0.3  # within what TensorFlow or Keras writes next
        process = job.start(folder, f"{draw.choice(numbers)}:{0 if inside else 60}:{mark}")
        while process.poll() is None and not mark.exists():
            time.sleep(0.0005)
        if inside:
            time.sleep(draw.uniform(0, 0.02))
        kills.append(process.poll() is None)
        process.kill()
    name = f"{job.name}, inside a write" + (", twice" if index % 2 else "")
    _judge(record, name, job, folder, expected, kills)


def _judge(record, name, job, folder, expected, kills):
    """Starts what was killed again, and compares."""
    process = job.start(folder)
    code = process.wait(_LONGEST)
    if code != 0:
        problem = f"{folder.name} does not go on, code {code}: {' | '.join(process.lines()[-2:])}"
        record.add(name, problem, killed=sum(kills))
        return
    found = job.result(folder)
    different = [key for key in {*expected, *found} if expected.get(key) != found.get(key)]
    record.add(
        name,
        f"{folder.name}: other {', '.join(sorted(different))}" if different else "",
        killed=sum(kills),
    )
    if not different:
        shutil.rmtree(folder)


def _jobs(trained):
    def training(folder):
        train.main([*TRAIN, f"--run_dir={folder}"])

    def evaluating(folder):
        state.SECONDS_BETWEEN_WRITES = 0.0
        folder.mkdir(exist_ok=True)
        evaluate.main([
            f"--model={trained}", "--dataset=digits", "--eps=0.1", "--max_examples=100",
            "--batch_size=32", "--attacks=fgsm,pgd10,mim,apgd-ce",
            f"--output={folder}/results.json",
        ])  # fmt: skip

    def converting(folder):
        folder.mkdir(exist_ok=True)
        convert.main([f"--model={trained}", f"--output={folder}/copy.keras"])

    def preparing(folder):
        builder = tiny_imagenet.TinyImagenet
        builder.NUM_CLASSES, builder.TRAIN_IMAGES_PER_CLASS, builder.TEST_IMAGES = 4, 150, 8
        folder.mkdir(exist_ok=True)
        _write_archive(folder.parent / "archive.zip", folder / "tiny-imagenet-200.zip")
        data.load_data("tiny_imagenet", "train", data_dir=str(folder), download=False)

    return [
        Job("train", training, of_run),
        Job("evaluate", evaluating, _of_files),
        Job("convert", converting, _of_files),
        Job("data", preparing, _of_files),
    ]


def _write_archive(kept, path):
    if not kept.exists():
        from PIL import Image

        root, draw = "tiny-imagenet-200", np.random.default_rng(0)
        temporary = kept.with_suffix(".part")
        with zipfile.ZipFile(temporary, "w") as archive:

            def add(name):
                with archive.open(name, "w") as file:
                    pixels = draw.integers(0, 256, (64, 64, 3), np.uint8)
                    Image.fromarray(pixels).save(file, "JPEG")

            names = [f"n{i}" for i in range(4)]
            archive.writestr(f"{root}/wnids.txt", "\n".join(names))
            archive.writestr(f"{root}/words.txt", "n0\tcat\n")
            for name in names:
                archive.writestr(f"{root}/train/{name}/{name}_boxes.txt", "")
                for i in range(150):
                    add(f"{root}/train/{name}/images/{name}_{i}.JPEG")
            for i in range(8):
                add(f"{root}/val/images/val_{i}.JPEG")
            lines = [f"val_{i}.JPEG\tn{i % 4}\t0\t0\t9\t9\n" for i in range(8)]
            archive.writestr(f"{root}/val/val_annotations.txt", "".join(lines))
        temporary.rename(kept)
    if not path.exists():
        path.symlink_to(kept)


def of_run(folder):
    """What a run leaves, but for TensorBoard's logs and which checkpoints, that of the clock."""
    found = _of_files(folder, lambda path: not {"tensorboard", "checkpoints"} & {*path.parts})
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    steps = {name.partition(".")[0] for name in names}
    whole = {f"{step}{end}" for step in steps for end in (".index", ".data-00000-of-00001")}
    found["half-written in checkpoints"] = sorted(names - whole - {"checkpoint"})
    return found


def _of_files(folder, wanted=lambda path: True):
    """Name -> content of all files, without what tells the time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and wanted(relative):
            found[str(relative)] = _content(path)
    return found


def _content(path):
    """What has to be equal of a file."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in ("config.json", "model.weights.h5")]
        parts[0] = re.sub(rb'"shared_object_id": \d+', b"", parts[0])  # addresses in memory
        return [hashlib.sha256(part).hexdigest() for part in parts]
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        if "sha256" in content:  # a description: true of the file beside it
            file = path.with_suffix("")
            found = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""
            content["sha256"] = content["sha256"] == found
        for name in ("seconds", "model", "download_size"):
            content.pop(name, None)
        if "training" in content:
            content["training"].pop("seconds", None)
        return json.dumps(content)
    if path.name == "flags.txt":
        lines = path.read_text().splitlines()
        return [line for line in lines if not line.startswith("--run_dir=")]
    if path.suffix == ".md":
        return "".join(
            line for line in path.read_text().splitlines(True) if str(path.parent) not in line
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _owners(record, folder):
    """A second process on a run folder is refused, a teacher in training is waited for."""
    shared = folder / "owners" / "run"
    shared.parent.mkdir()
    mark = folder / "owners" / "mark"
    start = functools.partial(processes.start, folder=folder / "owners" / "log")
    train_it = functools.partial(train.main, [*TRAIN, f"--run_dir={shared}"])
    first = start(train_it, environment={_PAUSE: f"4:30:{mark}"})
    while first.poll() is None and not mark.exists():
        time.sleep(0.01)
    second = start(train_it)
    code = second.wait(30)
    seconds = time.monotonic() - second.started
    lines = second.lines()
    right = code == 2 and len(lines) == 1 and "another process is training" in lines[0]
    record.add(
        "a second process on one run folder",
        "" if right and seconds < 2 else f"code {code} after {seconds:.1f} s: {lines}",
    )
    record.figures["seconds until the second process is refused"] = round(seconds, 2)
    first.kill()

    teacher = folder / "owners" / "teacher"
    flags = folder / "owners" / "teacher.flags"
    flags.write_text("\n".join([*TRAIN, "--method=adversarial_training", "--train_attack_steps=1"]))
    mark.unlink()
    trains_teacher = functools.partial(train.main, [f"--flagfile={flags}", f"--run_dir={teacher}"])
    first = start(trains_teacher, environment={_PAUSE: f"8:6:{mark}"})
    while first.poll() is None and not mark.exists():
        time.sleep(0.01)
    student = start(
        functools.partial(
            train.main,
            [*TRAIN, "--method=distillation", f"--teacher=flagfile:{flags}",
             f"--run_dir={folder}/owners/student"],
        )
    )  # fmt: skip
    codes = [first.wait(_LONGEST), student.wait(_LONGEST)]
    waited = [line for line in student.lines() if line.startswith("waiting for")]
    trained = sum("training small_cnn" in line for line in student.lines())
    record.add(
        "a teacher that another process trains",
        "" if codes == [0, 0] and len(waited) == 1 and trained == 1
        else f"codes {codes}, waited {waited}, {student.lines()[-1:]}",
    )  # fmt: skip
