"""The papers' claims on CIFAR-10 on one GPU: scripts/cifar10.sh.

Trains a robust teacher, then students of it and what they are compared with
(docs/results/rows/cifar10_resnet.toml), attacks each by PGD-20 and AutoAttack on 1,000 test
images, and keeps the records, in the order of their worth. It prints its plan first. A call that
was cut off leaves the finished rows; the same call goes on. Further students and seeds are further
calls.
"""

import argparse
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Images a second of a training on one H200: PGD-7 and MixACM as measured beside each other
# (docs/performance.md), natural at 01ff0fc; what was not measured stands at the speed of its parts.
SPEEDS = {
    "teacher": 15_000,
    "natural": 24_000,
    "mixacm": 18_000,
    "igam": 8_000,
    "rkd": 18_000,
    "pgd7": 10_000,
    "trades": 6_000,
    "mixacm_narrow": 20_000,
}
EPOCHS = {"pgd7": 10, "trades": 8, "igam": 20, "natural": 15}
ATTACKS, COMPILING = 60, 90  # seconds of a row's evaluation, and of its XLA


def seconds(row: str, share: float) -> float:
    """What a row takes, from those speeds."""
    return EPOCHS.get(row, 30) * 50_000 * share / SPEEDS[row] + ATTACKS + COMPILING


def plan(rows, seeds, share, jobs) -> str:
    """The rows with their seconds, each alone on the GPU, and the sum."""
    lines, total = [], 0.0
    for seed in seeds:
        for row in ("teacher", *rows):
            takes = seconds(row, share)
            total += takes
            lines.append(f"  seed {seed}  {row:10s} {takes:5.0f} s  (all done after {total:.0f} s)")
    beside = f"; {jobs} students at once take less" if jobs > 1 else ""
    return f"plan, by the steps of one H200{beside}:\n" + "\n".join(lines) + "\n"


def main(arguments=None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--students", default="mixacm,igam,pgd7,natural,rkd", help=", ".join(SPEEDS)
    )
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--quick", action="store_true", help="a third of the images")
    parser.add_argument("--train_flags", default="", help="further flags of every training")
    parser.add_argument("--run_dir", default="runs/cifar10")
    parser.add_argument("--records", default="docs/results/records")
    parser.add_argument("--jobs", type=int, default=4, help="networks at once")
    options = parser.parse_args(arguments[:at])
    rows = options.students.split(",")
    unknown = set(rows) - set(SPEEDS)
    if unknown:
        parser.error(f"unknown student {sorted(unknown)[0]!r}; known: {', '.join(SPEEDS)}")
    train_flags, share = options.train_flags, 1.0
    if options.quick:
        train_flags, share = f"--train_fraction=1/3 {train_flags}".strip(), 1 / 3
    sys.stdout.write(plan(rows, options.seeds.split(","), share, options.jobs))
    sys.stdout.flush()
    command = [
        sys.executable,
        str(ROOT / "scripts" / "results.py"),
        "cifar10_resnet",
        f"--rows={','.join(f'cifar10_{row}' for row in rows)}",
        f"--seeds={options.seeds}",
        f"--train_flags={train_flags}",
        f"--run_dir={options.run_dir}",
        f"--records={options.records}",
        f"--jobs={options.jobs}",
        "--threads=0",
        "--",
        *arguments[at + 1 :],
    ]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
