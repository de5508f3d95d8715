"""Trains and attacks the rows of docs/results that settle a claim, and keeps their records there.

    python scripts/claims.py --list
    python scripts/claims.py screen --jobs=2 -- --data_dir=../shared/tfds
    python scripts/claims.py igam mixacm28 --seeds=0,1,2

What stands before `--` names groups (all where none is named); what stands behind it goes to every
command. A row whose records are there is left alone, and one that was interrupted goes on where it
was: run folders are in --run_dir, records in --records. Each job is one process of one thread."""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
IGAM14, MIXACM14 = "flags/small/mnist14_igam.flags", "flags/small/mnist14_mixacm.flags"
# A row's training watches nothing and ends with its clean accuracy: the attacks come after it, on
# what the row names.
QUIET = ("--attacks=", "--watch_examples=0", "--checkpoint_minutes=0")
SCREENED = ("--split=train[:2000]", "--attacks=pgd20")
TESTED = ("--split=test", "--attacks=pgd20,autoattack", "--max_examples=1000")
PGD100 = ("--split=test", "--attacks=pgd20,pgd100x5", "--max_examples=1000")


@dataclasses.dataclass(frozen=True)
class Row:
    """One network: where its flags are, what is attacked, and the rows whose run folders it starts
    from.
    """

    name: str
    flag_file: str
    overrides: tuple = ()
    evaluation: tuple = TESTED
    seeds: tuple = (0, 1, 2)
    file: str = "results.json"
    needs: tuple = ()


def _screen():
    """IGAM at 14x14 on a third of the images: noise x lambda_diff x game; the reference code's
    preset.
    """
    rows = []
    for noise in ("0", "0.4"):
        for diff in ("0", "1"):
            for adv, every in (("0", "1"), ("1", "1"), ("1", "5"), ("5", "1"), ("5", "5")):
                game = "" if adv == "0" else f"_adv{adv}_every{every}"
                overrides = (
                    f"--noise={noise}",
                    f"--lambda_diff={diff}",
                    f"--lambda_adv={adv}",
                    f"--discriminator_every={every}",
                )
                rows.append((f"noise{noise}_diff{diff}{game}", overrides))
        if noise == "0.4":
            # Past the best edge, and between no game and the weakest of the grid.
            rows += [
                (f"noise0.4_diff{diff}", ("--noise=0.4", f"--lambda_diff={diff}", "--lambda_adv=0"))
                for diff in ("3", "10", "30", "100")
            ]
            rows += [
                (
                    f"noise0.4_diff10_adv{adv}_every1",
                    (
                        "--noise=0.4",
                        "--lambda_diff=10",
                        f"--lambda_adv={adv}",
                        "--discriminator_every=1",
                    ),
                )
                for adv in ("0.3", "1")
            ]
        for beta in (0, 2, 5):
            # gamma 10 goes with a sum over a batch of 32: 2.5 of 128.
            overrides = (
                "--preset=reference_code",
                f"--noise={noise}",
                "--lambda_diff=2.5",
                f"--lambda_adv={beta / 2}",
                "--discriminator_every=5",
                "--discriminator_optimizer=same",
            )
            rows.append((f"reference_beta{beta}_noise{noise}", overrides))
    return [
        Row(
            name,
            IGAM14,
            ("--train_fraction=1/3", *overrides),
            SCREENED,
            (0,),
            "results_train.json",
            ("mnist14_teacher",),
        )
        for name, overrides in rows
    ]


def _mixacm28():
    """MixACM at 28x28 on a third of the images, with a warm-up."""
    parts = {
        "": (),
        "_maps_only": ("--alpha_kld=0", "--mixup_alpha=0"),
        "_no_mixup": ("--mixup_alpha=0",),
        "_block4": ("--blocks=block4",),
    }
    return [
        Row(
            f"third_warm{name}",
            "flags/small/mnist_mixacm.flags",
            ("--train_fraction=1/3", "--warm_up_epochs=2", *flags),
            evaluation,
            seeds,
            file,
            ("mnist_wrn_teacher",),
        )
        for name, flags in parts.items()
        for evaluation, seeds, file in (
            (PGD100, (0, 1, 2), "results.json"),
            (TESTED, (0,), "results_autoattack.json"),
        )
    ]


def _mixacm14():
    """What holds MixACM's first steps at 14x14, beside the students of Theorem 4.1."""
    parts = {
        "mixacm": (),
        "rkd": ("--method=rkd",),
        "natural": ("--method=natural",),
        "no_warm_up": ("--warm_up_epochs=0",),
        "clipped_1": ("--warm_up_epochs=0", "--gradient_clip_norm=1"),
        # Each channel as one of block 4 under the mean: 5000 / 64.
        "sum_78": ("--warm_up_epochs=0", "--acm_reduction=sum", "--alpha_acm=78"),
    }
    return [
        Row(name, MIXACM14, flags, TESTED, (0, 1, 2), "results.json", ("mnist14_wrn_teacher",))
        for name, flags in parts.items()
    ]


def _both14():
    """Both methods together at 14x14, beside MixACM alone (group mixacm14): IGAM's terms after a
    warm start.
    """
    shared = (
        "--method=igam_mixacm",
        "--warm_start_epochs=3",
        "--lambda_diff=1",
        "--discriminator_channels=8,16,32",
        "--discriminator_optimizer=adam",
        "--discriminator_every=1",
    )
    return [
        Row(
            f"both_adv{adv}",
            MIXACM14,
            (*shared, f"--lambda_adv={adv}"),
            TESTED,
            (0, 1, 2),
            "results.json",
            ("mnist14_wrn_teacher",),
        )
        for adv in (0, 1, 5)
    ]


def _transposed():
    """Downward transfer behind the transposed convolution that cannot raise the contrast."""
    name = "mnist14_from_fashion_transposed_conv"
    return [
        Row(
            f"{name}_igam",
            f"flags/small/{name}_igam.flags",
            (),
            TESTED,
            (0, 1, 2),
            "results.json",
            (f"{name}_finetune",),
        )
    ]


# What others start from: a flag file of flags/small each, trained once for a seed.
TEACHERS = {
    "mnist14_teacher": PGD100,
    "mnist_wrn_teacher": PGD100,
    "mnist14_wrn_teacher": TESTED,
    "mnist_teacher": PGD100,
    "fashion_teacher": PGD100,
    "mnist14_from_fashion_transposed_conv_finetune": TESTED,
    "cifar10_from_mnist_finetune": TESTED,
}
# Teachers that start from another one.
TAUGHT = {
    "mnist14_from_fashion_transposed_conv_finetune": "fashion_teacher",
    "cifar10_from_mnist_finetune": "mnist_teacher",
}


def _igam14():
    """The rows that carry the claims, on all images: what noise, the l2 term and the game give,
    alone and together.
    """
    game = ("--lambda_adv=5", "--discriminator_every=1")
    none = ("--lambda_adv=0", "--lambda_diff=0")
    rows = {
        "natural": ("--noise=0", *none),
        "noise": none,
        "l2": ("--noise=0", "--lambda_adv=0", "--lambda_diff=1"),
        "l2_noise": ("--lambda_adv=0", "--lambda_diff=1"),
        "game_noise": ("--lambda_diff=0", *game),
        "both_noise": ("--lambda_diff=1", *game),
        "both": ("--noise=0", "--lambda_diff=1", *game),
        "reference": (
            "--preset=reference_code",
            "--lambda_diff=2.5",
            "--lambda_adv=1",
            "--discriminator_every=5",
            "--discriminator_optimizer=same",
        ),
    }
    return [
        Row(f"igam14_{name}", IGAM14, flags, TESTED, needs=("mnist14_teacher",))
        for name, flags in rows.items()
    ]


def _cifar10():
    """Across tasks: CIFAR-10 from the robust MNIST teacher, four settings; chosen on training
    images.
    """
    settings = {
        "diff10": ("--lambda_diff=10", "--lambda_adv=0"),
        "diff100": ("--lambda_diff=100", "--lambda_adv=0"),
        "diff1_adv1": ("--lambda_diff=1", "--lambda_adv=1", "--discriminator_every=1"),
        "diff10_adv1": ("--lambda_diff=10", "--lambda_adv=1", "--discriminator_every=1"),
    }
    return [
        Row(
            f"cifar10_{name}",
            "flags/small/cifar10_from_mnist_igam.flags",
            flags,
            evaluation,
            (0,),
            file,
            ("cifar10_from_mnist_finetune",),
        )
        for name, flags in settings.items()
        for evaluation, file in ((SCREENED, "results_train.json"), (TESTED, "results.json"))
    ]


def _trades():
    """TRADES beside PGD on digits, the quickstart's teacher with either loss; all 500 images."""
    evaluation = ("--split=test", "--attacks=pgd20,autoattack")
    rows = {"digits_pgd": (), "digits_trades": ("--method=trades", "--beta=6")}
    return [
        Row(name, "flags/quickstart/teacher.flags", flags, evaluation)
        for name, flags in rows.items()
    ]


def _vanish():
    """Where student gradients vanish: both forms of the game, without noise (vanished_gradients in
    the logs).
    """
    return [
        Row(
            f"{form}_adv{adv}",
            IGAM14,
            (
                "--train_fraction=1/3",
                "--noise=0",
                "--lambda_diff=0",
                f"--lambda_adv={adv}",
                "--discriminator_every=5",
                f"--adversarial_form={form}",
            ),
            ("--split=test", "--attacks=pgd20,cw-pgd20,autoattack", "--max_examples=500"),
            (0,),
            "results.json",
            ("mnist14_teacher",),
        )
        for form in ("minimax", "non_saturating")
        for adv in (1, 5)
    ]


GROUPS = {
    "screen": _screen(),
    "igam14": _igam14(),
    "vanish": _vanish(),
    "mixacm14": _mixacm14(),
    "both14": _both14(),
    "transposed": _transposed(),
    "mixacm28": _mixacm28(),
    "cifar10": _cifar10(),
    "trades": _trades(),
}


class Runner:
    """Trains and attacks one network after the other, each where it was left.

    Args:
        runs, records: folders.
        further: flags that go to every command.
    """

    def __init__(self, runs, records, further):
        self.runs, self.records, self.further = (
            pathlib.Path(runs),
            pathlib.Path(records),
            list(further),
        )

    def teacher(self, name, seed):
        """The run folder of a teacher, its record beside those of the rows."""
        own = (f"--teacher={self.runs / f'seed{seed}' / TAUGHT[name]}",) if name in TAUGHT else ()
        self._train(name, f"flags/small/{name}.flags", own, seed)
        return self._evaluate(
            name,
            self.records / "teachers" / f"seed{seed}" / name,
            TEACHERS[name],
            "results.json",
            seed,
        )

    def rows(self, group, rows, seed):
        """Records of one network: rows of one name, which differ in what is attacked."""
        record = self.records / group / f"seed{seed}" / rows[0].name
        if all((record / row.file).exists() for row in rows):
            return f"{record}: there already"
        # The run folder of a teacher, not its flag file, which would find it trained with fewer
        # attacks.
        taught = [f"--teacher={self.runs / f'seed{seed}' / teacher}" for teacher in rows[0].needs]
        self._train(rows[0].name, rows[0].flag_file, (*rows[0].overrides, *taught), seed)
        return "\n".join(
            self._evaluate(row.name, record, row.evaluation, row.file, seed) for row in rows
        )

    def _train(self, name, flag_file, overrides, seed):
        folder = self.runs / f"seed{seed}" / name
        if not ((folder / "model.keras").exists() and (folder / "results.json").exists()):
            self._run(
                name,
                "train",
                f"--flagfile={flag_file}",
                *overrides,
                *QUIET,
                f"--seed={seed}",
                f"--run_dir={folder}",
            )

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
            if not output.exists():
                self._run(
                    name,
                    "evaluate",
                    f"--model={folder}",
                    *same,
                    *evaluation,
                    f"--seed={seed}",
                    "--batch_size=256",
                    f"--output={output}",
                )
            record.mkdir(parents=True, exist_ok=True)
            # Without where the data lay.
            flags = re.sub(
                r"(?m)^--data_dir=.*$", "--data_dir=", (folder / "flags.txt").read_text()
            )
            (record / "flags.txt").write_text(flags)
            found = json.loads(output.read_text()) | {"commit": _commit()}
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
            open(log, "a") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            print("$", command, *arguments, *self.further, flush=True)
            try:
                main([*arguments, *self.further])
            except SystemExit as error:
                raise RuntimeError(f"{command} of {name} ended with {error.code}: {log}") from None


def _work(method, *arguments):
    """One call of a Runner in a process of the pool."""
    import keras

    os.chdir(ROOT)
    keras.backend.clear_session()
    return getattr(Runner(*arguments[0]), method)(*arguments[1:])


def _commit():
    line = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main():
    arguments, further = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, further = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seeds", default="0,1,2", help="of the rows' own seeds, only these")
    parser.add_argument("--only", default="", help="only rows whose names begin so")
    parser.add_argument("--run_dir", default="runs/claims")
    parser.add_argument("--records", default="docs/results/claims")
    parser.add_argument(
        "--list",
        action="store_true",
        help="print the rows and whether they have a record, run nothing",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown group {sorted(unknown)[0]!r}; known: {', '.join(GROUPS)}")
    seeds = {int(seed) for seed in options.seeds.split(",")}
    # Seed by seed, so that every row has a figure before any has a second.
    work = sorted(
        (
            (group, row, seed)
            for group in options.groups or GROUPS
            for row in GROUPS[group]
            for seed in row.seeds
        ),
        key=lambda item: item[2],
    )
    work = [
        (g, row, seed)
        for g, row, seed in work
        if seed in seeds and row.name.startswith(options.only)
    ]
    if options.list:
        for group, row, seed in work:
            record = pathlib.Path(options.records) / group / f"seed{seed}" / row.name / row.file
            print(
                f"{'done' if record.exists() else '-':5s}{group:10s}seed {seed}  "
                f"{row.name:40s}{row.file}"
            )
        return 0
    os.environ |= {
        "TF_NUM_INTRAOP_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    where, failed = (options.run_dir, options.records, further), 0
    networks = {}
    for group, row, seed in work:
        if not (
            pathlib.Path(options.records) / group / f"seed{seed}" / row.name / row.file
        ).exists():
            networks.setdefault((group, row.name, seed), []).append(row)
    teachers = dict.fromkeys(
        (name, seed) for (_, _, seed), rows in networks.items() for name in rows[0].needs
    )
    first = dict.fromkeys((TAUGHT[name], seed) for name, seed in teachers if name in TAUGHT)
    calls = (
        *([("teacher", where, *teacher) for teacher in stage] for stage in (first, teachers)),
        [("rows", where, group, rows, seed) for (group, _, seed), rows in networks.items()],
    )
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        for stage in calls:
            for future in concurrent.futures.as_completed(
                [pool.submit(_work, *call) for call in stage]
            ):
                try:
                    print(future.result(), flush=True)
                except Exception as error:  # noqa: BLE001 - the other rows go on
                    failed += 1
                    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
