"""Seconds from the start of `evaluate` to its table, in a process of its own each time.

    python benchmarks/start.py --model=runs/mnist_natural --data_dir=DIR
        [--repeats=3] [--output=docs/results/speed/start.json]

PGD-20 on 500 test images of MNIST. Beside it what the import of the package takes alone. Libraries
are compiled to bytecode once, as Python does unless it is told not to (many containers do)."""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import speed

KEPT = os.environ | {"PYTHONPYCACHEPREFIX": str(speed.ROOT / ".venv" / "bytecode")}
KEPT.pop("PYTHONDONTWRITEBYTECODE", None)


def timed(*command) -> tuple[float, float]:
    """(wall, processor) seconds of a command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, cwd=speed.ROOT, env=KEPT
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, help="a record: see speed.py")
    options = parser.parse_args()
    evaluate = (
        "-m", "tf_robust_transfer.evaluate", f"--model={pathlib.Path(options.model).absolute()}",
        "--dataset=mnist", f"--data_dir={pathlib.Path(options.data_dir).absolute()}", "--eps=0.1",
        "--attacks=pgd20", "--max_examples=500",
    )  # fmt: skip
    commands = {
        "evaluate --attacks=pgd20, 500 images": evaluate,
        "import tf_robust_transfer": ("-c", "import tf_robust_transfer"),
    }
    found = {what: [] for what in commands}
    for _ in range(options.repeats):
        for what, command in commands.items():
            found[what].append(timed(*command))
    rows = [
        {
            "": what,
            "seconds, median": statistics.median(wall for wall, _ in times),
            "most": max(wall for wall, _ in times),
            "CPU s, median": statistics.median(cpu for _, cpu in times),
        }
        for what, times in found.items()
    ]
    for row in rows:
        print(row)
    if options.output:
        speed.write(options.output, rows)


if __name__ == "__main__":
    main()
