"""Trains and attacks the rows of the results pages, and keeps their records.

    python scripts/results.py --list
    python scripts/results.py screen --jobs=2 -- --data_dir=../shared/tfds
    python scripts/results.py igam14 mixacm28 --seeds=0,1,2

What stands before `--` names files of docs/results/rows (all where none is named); what stands
behind it goes to every command. A row whose records are there is left alone, and one that was
interrupted goes on where it was: run folders are in --run_dir, records in --records, by default
those of the repository, in which relative paths lie. Each job is one process of one thread. Then
`python -m tf_robust_transfer.report --write=docs` fills the pages."""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import shlex
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A row's training watches nothing and ends with its clean accuracy: the attacks come after it, on
# what the row names.
QUIET = ("--attacks=", "--watch_examples=0", "--checkpoint_minutes=0")


class Runner:
    """Trains and attacks one network after the other, each where it was left.

    Args:
        runs, records: folders.
        further: flags that go to every command.
        train_flags: flags that go to every training.
    """

    def __init__(self, runs, records, further, train_flags=()):
        self.runs, self.records = (pathlib.Path(path).expanduser() for path in (runs, records))
        self.further, self.train_flags = list(further), train_flags

    def row(self, row, seed):
        """Trains a row's network where it is not there, and runs what its records lack."""
        record = row.folder(self.records, seed)
        if all((record / file).exists() for file in row.evaluations) and row.group != "teachers":
            return f"{record}: there already"
        self.trained(row, seed)
        self._keep_flags(record, self.runs / f"seed{seed}" / row.name)
        return "\n".join(
            self._evaluate(row.name, record, flags, file, seed)
            for file, flags in row.evaluations.items()
        )

    def trained(self, row, seed):
        """Trains a row's network where it is not there; its teachers are.

        `train` itself leaves a finished run alone, and refuses one of other flags."""
        name, folder = row.name, self.runs / f"seed{seed}" / row.name
        # The run folder of a teacher, not its flag file, which would find it trained with fewer
        # attacks.
        needed = [str(self.runs / f"seed{seed}" / teacher) for teacher in row.needs]
        overrides = [text.format(needed=needed) for text in row.overrides]
        if not any("{needed" in text for text in row.overrides):
            overrides += [f"--teacher={folder}" for folder in needed]
        self._run(
            name,
            "train",
            f"--flagfile={row.flag_file}",
            *overrides,
            *QUIET,
            *self.train_flags,
            f"--seed={seed}",
            f"--run_dir={folder}",
        )
        return f"{folder}: trained"

    def _keep_flags(self, record, folder):
        """Stores a network's flags with its record; all figures of another network there go."""
        # Without the places of this machine.
        flags = (folder / "flags.txt").read_text().replace(f"{self.runs}/", "runs/results/")
        flags = re.sub(r"(?m)^--data_dir=.*$", "--data_dir=", flags)
        stored = record / "flags.txt"
        if stored.exists() and _without_place(stored.read_text()) != _without_place(flags):
            for other in record.glob("results*.json"):
                other.unlink()
        record.mkdir(parents=True, exist_ok=True)
        stored.write_text(flags)

    def _evaluate(self, name, record, evaluation, file, seed):
        folder = self.runs / f"seed{seed}" / name
        if not (record / file).exists():
            stored = dict(
                line[2:].split("=", 1)
                for line in (folder / "flags.txt").read_text().split("\n")
                if line
            )
            output = folder / f"evaluated_{file}"
            same = (
                f"--{flag}={stored[flag]}"
                for flag in ("dataset", "image_size", "eps")
                if stored[flag]
            )
            made_by, wanted = output.with_suffix(".flags"), "\n".join(evaluation) + "\n"
            # One of before there were such files is taken as it is.
            if made_by.exists() and made_by.read_text() != wanted:
                output.unlink(missing_ok=True)
                output.with_name(f"{output.name}.state.npz").unlink(missing_ok=True)
            if not output.exists():
                made_by.write_text(wanted)
                self._run(
                    name,
                    "evaluate",
                    f"--model={folder}",
                    *same,
                    "--batch_size=256",
                    *evaluation,
                    f"--seed={seed}",
                    f"--output={output}",
                )
            trained = json.loads((folder / "results.json").read_text()).get("training")
            found = json.loads(output.read_text()) | ({"training": trained} if trained else {})
            found["model"] = f"runs/results/seed{seed}/{name}"
            (record / file).write_text(json.dumps(found, indent=1) + "\n")
        accuracy = json.loads((record / file).read_text())["accuracy"]
        return f"{record}: " + ", ".join(
            f"{attack} {100 * value:.1f}" for attack, value in accuracy.items()
        )

    def _run(self, name, command, *arguments):
        """The command in this process, which has imported TensorFlow; what it prints goes to the
        network's log.
        """
        from tf_robust_transfer import evaluate, train

        main = {"train": train.main, "evaluate": evaluate.main}[command]
        log = self.runs / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(log, "a", buffering=1) as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            print("$", command, *arguments, *self.further, flush=True)
            try:
                main([*arguments, *self.further])
            except SystemExit as error:
                raise RuntimeError(f"{command} of {name} ended with {error.code}: {log}") from None


def _without_place(flags):
    return re.sub(r"(?m)^--(run|data)_dir=.*$", "", flags)


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process of the pool does: a row whole, or (`train_only`) the training that its
    students wait for.
    """

    row: object  # an Experiment
    seed: int
    train_only: bool = False

    def work(self, *runner) -> str:
        os.chdir(ROOT)
        made = Runner(*runner)
        return (made.trained if self.train_only else made.row)(self.row, self.seed)


def planned(chosen, teachers):
    """Tasks in the order of their worth, each with those that it waits for: teachers first, what
    students keep of their figures being the question.
    """
    left = dict.fromkeys(chosen)
    waiting = list(left)
    for row, seed in waiting:
        needed = [(teachers[name], seed) for name in row.needs]
        waiting += [item for item in needed if item not in left]
        left |= dict.fromkeys(needed)
    is_teacher = {item: item[0].group == "teachers" for item in left}
    tasks = [Task(*item, train_only=True) for item in left if is_teacher[item]]
    tasks += [Task(*item) for item in sorted(left, key=is_teacher.get, reverse=True)]
    after = {}
    for task in tasks:
        after[task] = {Task(teachers[name], task.seed, True) for name in task.row.needs}
        if is_teacher[(task.row, task.seed)] and not task.train_only:
            after[task].add(Task(task.row, task.seed, True))
    return after


def run(after, jobs, runner) -> int:
    """Takes the tasks, `jobs` at once, each when what it waits for is done; returns how many
    failed.
    """
    waiting, running, done, failed = list(after), {}, set(), 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as threads:
        while waiting or running:
            for task in [task for task in waiting if after[task] <= done]:
                if len(running) < jobs:
                    running[threads.submit(in_a_process, task, runner)] = task
                    waiting.remove(task)
            if not running:  # their teachers failed
                return failed + len(waiting)
            finished, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                task = running.pop(future)
                try:
                    print(future.result(), flush=True)
                    done.add(task)
                except Exception as error:  # noqa: BLE001 - the other rows go on
                    failed += 1
                    print(f"{task.row.name}: {error}", file=sys.stderr, flush=True)
    return failed


def in_a_process(task, runner) -> str:
    """In one of its own, so that one that dies takes no other with it."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(task.work, *runner).result()


def only(rows, wanted):
    """The rows with those of their evaluations alone."""
    return {
        name: dataclasses.replace(
            row,
            evaluations={file: row.evaluations[file] for file in wanted if file in row.evaluations},
        )
        for name, row in rows.items()
    }


def main():
    from tf_robust_transfer.reports.experiments import all_experiments

    arguments, further = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, further = arguments[:at], arguments[at + 1 :]
    files = all_experiments(ROOT / "docs" / "results" / "rows")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(files))
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seeds", default="0,1,2", help="of the rows' own seeds, only these")
    parser.add_argument("--only", default="", help="only rows whose names begin so")
    parser.add_argument("--rows", default="", help="only these rows, comma-separated")
    parser.add_argument(
        "--evaluations", default="", help="of the rows' own, only these files, comma-separated"
    )
    parser.add_argument("--train_flags", default="", help="further flags of every training")
    parser.add_argument(
        "--threads", type=int, default=1, help="of a process; 0: as TensorFlow has it"
    )
    parser.add_argument("--run_dir", default="runs/results")
    parser.add_argument("--records", default="docs/results/records")
    parser.add_argument(
        "--list",
        action="store_true",
        help="print the rows and whether they have a record, run nothing",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.files) - set(files)
    if unknown:
        parser.error(f"unknown file {sorted(unknown)[0]!r}; known: {', '.join(files)}")
    if options.evaluations:
        files = {name: only(rows, options.evaluations.split(",")) for name, rows in files.items()}
    seeds = {int(seed) for seed in options.seeds.split(",")}
    # Seed by seed, so that every row has a figure before any has a second.
    chosen = sorted(
        (
            (row, seed)
            for file in options.files or files
            for row in files[file].values()
            for seed in row.seeds
            if row.flag_file and seed in seeds and row.name.startswith(options.only)
            if not options.rows or row.name in options.rows.split(",")
        ),
        key=lambda item: item[1],
    )
    if not chosen:
        parser.error(
            f"no row is chosen: of seeds {options.seeds}, rows {options.rows or 'any'} and names "
            f"that begin with {options.only!r} there is none in {', '.join(options.files or files)}"
        )
    os.chdir(ROOT)  # as the workers do
    records = pathlib.Path(options.records).expanduser()
    missing = [
        (row, seed)
        for row, seed in chosen
        if not all((row.folder(records, seed) / file).exists() for file in row.evaluations)
    ]
    if options.list:
        width = max(len(row.group) for row, _ in chosen)
        for row, seed in chosen:
            known = "-" if (row, seed) in missing else "done"
            print(f"{known:5s}{row.group:{width}s}  seed {seed}  {row.name}")
        return 0
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    if options.threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    runner = (options.run_dir, options.records, further, shlex.split(options.train_flags))
    failed = run(planned(missing, files["teachers"]), options.jobs, runner)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
