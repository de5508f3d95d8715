"""The papers' claims on CIFAR-10 on one GPU: scripts/cifar10.sh.

Trains a robust teacher, then students of it and what they are compared with
(docs/results/rows/cifar10_resnet.toml), attacks each by PGD-20 and AutoAttack on 1,000 test
images, and keeps the records, in the order of their worth. It prints its plan first. A call that
was cut off leaves the finished rows; the same call goes on. Further students and seeds are further
calls. With --minutes it ends in time, each network at a checkpoint, and --pack is then whole.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Images a second of a training on one H200: PGD-7 and MixACM as measured beside each other
# (docs/performance.md), natural at 01ff0fc; what was not measured stands at the speed of its parts.
SPEEDS = {
    "teacher": 15_000,
    "natural": 24_000,
    "mixacm": 18_000,
    "igam": 8_000,
    "rkd": 18_000,
    "pgd7": 7_500,
    "trades": 6_000,
    "mixacm_narrow": 20_000,
}
EPOCHS = {"pgd7": 13, "trades": 10, "igam": 20, "natural": 15}
ATTACKS, COMPILING = 60, 90  # seconds of a row's evaluation, and of its XLA
WITHOUT_TEACHER = ("natural", "pgd7", "trades")
# Seconds in which networks that are told to stop save what they have, and the pack is written.
LAST_CHECKPOINT = 50


def seconds(row: str, share: float) -> float:
    """What a row takes, from those speeds."""
    return EPOCHS.get(row, 30) * 50_000 * share / SPEEDS[row] + ATTACKS + COMPILING


def plan(rows, seeds, share, jobs, run_dir) -> str:
    """The rows with their seconds, each alone on the GPU, and the sum; a teacher where one is to be
    trained.
    """
    lines, total = [], 0.0
    for seed in seeds:
        there = (
            pathlib.Path(run_dir) / f"seed{seed}" / "cifar10_teacher" / "results.json"
        ).exists()
        needed = not there and set(rows) - set(WITHOUT_TEACHER)
        for row in (*(["teacher"] if needed else []), *rows):
            takes = seconds(row, share)
            total += takes
            lines.append(f"  seed {seed}  {row:10s} {takes:5.0f} s  (all done after {total:.0f} s)")
    beside = f"; {jobs} students at once take less" if jobs > 1 else ""
    return f"plan, by the steps of one H200{beside}:\n" + "\n".join(lines) + "\n"


def gpu() -> str:
    """The name of the GPU that TensorFlow finds, or ""."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0])["device_name"] if found else ""


def run(command, minutes, begun=None) -> int:
    """Runs a command, at most until so long after `begun`, where minutes is not 0: its processes
    are told to stop, and waited for. So they are where this one is told.
    """
    begun = time.monotonic() if begun is None else begun
    process = subprocess.Popen(command, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        left = begun + 60 * minutes - LAST_CHECKPOINT - time.monotonic()
        return process.wait(max(left, 0) if minutes else None)
    except subprocess.TimeoutExpired:
        print(f"stopped after {time.monotonic() - begun:.0f} s; the same call goes on", flush=True)
        return 124
    finally:
        _stop(process)


def _stop(process):
    """Ends a command's whole session: SIGTERM, on which a training saves, then SIGKILL."""
    for sent, wait in ((signal.SIGTERM, LAST_CHECKPOINT - 15), (signal.SIGKILL, 5)):
        end = time.monotonic() + wait
        try:
            os.killpg(process.pid, sent)
            while time.monotonic() < end:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.2)
        except ProcessLookupError:
            return


def pack(path, records, run_dir):
    """The records and the logs as one small file, which appears whole or not at all."""
    new = pathlib.Path(f"{path}.new")
    with tarfile.open(new, "w:gz") as tar:
        for folder, name in ((pathlib.Path(records), "records"), (pathlib.Path(run_dir), "runs")):
            for file in sorted(folder.rglob("*")):
                if file.suffix in (".json", ".txt", ".log", ".md") and file.is_file():
                    tar.add(file, f"{name}/{file.relative_to(folder)}")
    new.replace(path)


def main(arguments=None) -> int:
    begun = time.monotonic()  # TensorFlow's import counts
    arguments = sys.argv[1:] if arguments is None else arguments
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--students",
        default="mixacm,igam,pgd7,natural,rkd",
        help=", ".join(name for name in SPEEDS if name != "teacher"),
    )
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--quick", action="store_true", help="a third of the images")
    parser.add_argument("--train_flags", default="", help="further flags of every training")
    parser.add_argument("--run_dir", default="", help="runs/cifar10; of --quick one of its own")
    parser.add_argument("--records", default="", help="docs/results/records; likewise")
    parser.add_argument("--minutes", type=float, default=0, help="end after so many; 0: at the end")
    parser.add_argument("--pack", default="", help="a file for records and logs, X.tar.gz")
    parser.add_argument("--cpu", action="store_true", help="go on where there is no GPU")
    parser.add_argument("--jobs", type=int, default=4, help="networks at once")
    options = parser.parse_args(arguments[:at])
    rows = options.students.split(",")
    unknown = set(rows) - (set(SPEEDS) - {"teacher"})  # which comes with its students
    if unknown:
        parser.error(f"unknown student {sorted(unknown)[0]!r}; known: {', '.join(SPEEDS)}")
    train_flags, share = options.train_flags, 1.0
    run_dir, records = options.run_dir or "runs/cifar10", options.records or "docs/results/records"
    if options.quick:  # its networks are no teachers of the others, nor its figures theirs
        train_flags, share = f"--train_fraction=1/3 {train_flags}".strip(), 1 / 3
        run_dir = options.run_dir or "runs/cifar10_quick"
        records = options.records or f"{run_dir}/records"
    if options.pack:
        pathlib.Path(options.pack).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(plan(rows, options.seeds.split(","), share, options.jobs, run_dir))
    sys.stdout.flush()
    device = gpu()
    if not (device or options.cpu):
        parser.error("TensorFlow finds no GPU, and a CPU takes days; --cpu goes on all the same")
    print(f"on {device or 'a CPU'}", flush=True)
    command = [
        sys.executable,
        str(ROOT / "scripts" / "results.py"),
        "cifar10_resnet",
        f"--rows={','.join(f'cifar10_{row}' for row in rows)}",
        f"--seeds={options.seeds}",
        f"--train_flags={train_flags}",
        f"--run_dir={run_dir}",
        f"--records={records}",
        f"--jobs={options.jobs}",
        "--threads=0",
        "--",
        *arguments[at + 1 :],
    ]
    try:
        return run(command, options.minutes, begun)
    finally:
        if options.pack:
            pack(options.pack, records, run_dir)


if __name__ == "__main__":
    sys.exit(main())
