"""Speed of the attacks beside CleverHans, Foolbox, ART, torchattacks and the official AutoAttack,
in one run.

    python benchmarks/attacks.py [--networks=small_cnn,madry_mnist,wrn_10_2,wrn_10_4]
    [--batch_size=128] [--repeats=5] python benchmarks/attacks.py --model=MODEL --dataset=mnist
    --eps=0.2 [--examples=1000] [--autoattack=CHECKOUT] ... --profile

Prints medians of runs that take turns, after one run each that compiles, on the clock and in
processor time, which other programs on the machine disturb less (read it with --threads=1).
Libraries that are not installed are left out; those for PyTorch attack a twin with the same
weights. --profile prints instead where the time of the native attacks and CleverHans's goes, by
kind of operation. benchmarks/README.md says what is compared, and has figures."""

import argparse
import importlib.util
import os
import pathlib
import statistics
import sys
import time

import keras
import numpy as np
import profiling
import speed
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

import tf_robust_transfer as rt
from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
from tf_robust_transfer.attacks.search import Search
from tf_robust_transfer.data.datasets import load_data
from tf_robust_transfer.inference.faster_copy import FasterCopy
from tf_robust_transfer.models import build_model

NETWORKS = {
    "small_cnn": ((28, 28, 1), {}),
    "madry_mnist": ((28, 28, 1), {}),
    "wrn_10_2": ((28, 28, 1), {"stem_stride": 2}),
    "wrn_10_4": ((32, 32, 3), {}),
}
STEPS, EPS = 20, 8 / 255
STEP_SIZE = 2.5 * EPS / STEPS
# Library -> the module by which its presence is told.
TORCH_LIBRARIES = {"torchattacks": "torchattacks", "foolbox": "foolbox", "ART": "art"}


def cleverhans_pgd(model, images, labels, eps=EPS, **options):
    step_size = 2.5 * eps / STEPS
    return projected_gradient_descent(
        model,
        images,
        eps,
        step_size,
        STEPS,
        np.inf,
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
        **options,
    )


def tensorflow_contestants(attack, model, images, labels):
    """name -> function that attacks the batch and returns the adversarial examples as an array."""
    native = {"FGSM": FGSM(), f"PGD-{STEPS}": PGD(STEPS, STEP_SIZE, random_start=False)}[attack]
    threat_model = ThreatModel("linf", EPS)

    def on_a_copy(precision):
        copy = FasterCopy(model, precision=precision)
        seed = tf.constant([0, 0])
        function = tf.function(
            lambda x, y: native.perturb(copy, x, y, threat_model, seed), autograph=False
        )
        return lambda: function(images, labels).numpy()

    def cleverhans(x, y):
        if attack == "FGSM":
            return fast_gradient_method(model, x, EPS, np.inf, clip_min=0.0, clip_max=1.0, y=y)
        return cleverhans_pgd(model, x, y)

    compiled = tf.function(cleverhans)
    precisions = ["float32", "mixed"] + (["bfloat16"] if attack != "FGSM" else [])
    return {
        "native, the model": lambda: native(
            model, images, labels, threat_model=threat_model, seed=0
        ).numpy(),
        **{f"native, copy {precision}": on_a_copy(precision) for precision in precisions},
        "cleverhans": lambda: cleverhans(images, labels).numpy(),
        "cleverhans+tf.function": lambda: compiled(images, labels).numpy(),
    }


def torch_contestants(attack, model, images, labels):
    """The same for PyTorch's libraries that are installed; empty where PyTorch is not."""
    installed = [
        name for name, module in TORCH_LIBRARIES.items() if importlib.util.find_spec(module)
    ]
    if not installed or not importlib.util.find_spec("torch"):
        return {}
    import torch
    from torch_twin import TorchTwin

    twin = TorchTwin(model, images.numpy())
    x, y = (
        torch.tensor(images.numpy().transpose(0, 3, 1, 2)),
        torch.tensor(labels.numpy(), dtype=torch.long),
    )
    fast = attack == "FGSM"
    functions = {}
    if "torchattacks" in installed:
        import torchattacks

        ours = (
            torchattacks.FGSM(twin, EPS)
            if fast
            else torchattacks.PGD(twin, EPS, STEP_SIZE, STEPS, random_start=False)
        )
        functions["torchattacks"] = lambda: ours(x, y).numpy()
    if "foolbox" in installed:
        import foolbox

        wrapped = foolbox.PyTorchModel(twin, bounds=(0, 1), device="cpu")
        theirs = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=False)
        if fast:
            theirs = foolbox.attacks.FGSM(random_start=False)
        functions["foolbox"] = lambda: theirs(wrapped, x, y, epsilons=EPS)[1].numpy()
    if "ART" in installed:
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            twin,
            torch.nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            10,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        if fast:
            art = FastGradientMethod(classifier, np.inf, EPS, batch_size=len(x))
        else:
            art = ProjectedGradientDescentPyTorch(
                classifier, np.inf, EPS, STEP_SIZE, max_iter=STEPS, batch_size=len(x), verbose=False
            )
        arrays = x.numpy(), y.numpy()
        functions["ART"] = lambda: art.generate(*arrays)
    return functions


def timed(function):
    """(seconds on the clock, seconds of processor time, the function's result)."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - clock, time.process_time() - processor, result


def measure(functions, repeats):
    """Median (seconds, processor seconds) of each function, which take turns, so that another load
    meets all alike.
    """
    runs = {name: [] for name in functions}
    for run in range(repeats + 1):
        for name, function in functions.items():
            seconds = timed(function)[:2]
            if run:  # the first compiles
                runs[name].append(seconds)
    return {
        name: tuple(map(statistics.median, zip(*values, strict=True)))
        for name, values in runs.items()
    }


class Lanes:
    """The searches of everything inside `with`, and what share of the steps that they computed
    belonged to an example.
    """

    def __enter__(self):
        self.searches, self._run = [], Search.run

        def run(search, *arguments, **options):
            self.searches.append(search)
            return self._run(search, *arguments, **options)

        Search.run = run
        return self

    def __exit__(self, *_):
        Search.run = self._run

    @staticmethod
    def share(searches):
        return sum(s.used for s in searches) / max(sum(s.computed for s in searches), 1)

    def print(self):
        each = (
            f"{type(search.attack).__name__} {self.share([search]):.1%}" for search in self.searches
        )
        print(
            f"steps that belonged to an example: {self.share(self.searches):.1%} of those computed "
            f"({', '.join(each)})",
            flush=True,
        )


def profile(prefix, functions):
    """Prints where each function's time goes, all but that of its first run, which compiles."""
    for name, function in functions.items():
        function()
        profiling.print_profile(prefix + name, function)


def table_of_attacks(options):
    """Images a second on fresh networks, and what the examples do to the model's own loss."""
    rows: list[dict] = []
    print(
        f"images a second, batch {options.batch_size}, linf eps 8/255, no early stopping, started "
        "at the image"
    )
    print(
        f"{'':<45} {'images/s':>9} {'/ cleverhans':>13} {'images/CPU s':>13} {'/ cleverhans':>13} "
        f"{'mean loss':>10}"
    )
    for network in options.networks:
        shape, arguments = NETWORKS[network]
        keras.utils.set_random_seed(0)
        model = build_model(network, shape, 10, **arguments)
        images = tf.random.stateless_uniform((options.batch_size, *shape), (0, 0))
        labels = tf.random.stateless_uniform((options.batch_size,), (0, 1), 0, 10, tf.int32)
        for attack in ("FGSM", f"PGD-{STEPS}"):
            functions = tensorflow_contestants(attack, model, images, labels)
            if options.profile:
                profile(f"{network} {attack} ", functions)
                continue
            functions |= torch_contestants(attack, model, images, labels)
            measured = measure(functions, options.repeats)
            base = measured["cleverhans"]
            for name, (seconds, processor) in measured.items():
                found = functions[name]()
                if found.shape != images.shape:
                    found = found.transpose(0, 2, 3, 1)
                losses = keras.losses.sparse_categorical_crossentropy(
                    labels, model(found), from_logits=True
                )
                print(
                    f"{network:<12} {attack:<7} {name:<24} {options.batch_size / seconds:9.0f} "
                    f"{base[0] / seconds:12.2f}x "
                    f"{options.batch_size / processor:13.0f} {base[1] / processor:12.2f}x "
                    f"{float(tf.reduce_mean(losses)):10.4f}",
                    flush=True,
                )
                rows.append(
                    {
                        "network": network,
                        "attack": attack,
                        "": name,
                        "images/s": options.batch_size / seconds,
                        "/ CleverHans": base[0] / seconds,
                        "images/CPU s": options.batch_size / processor,
                        "/ CleverHans, CPU": base[1] / processor,
                    }
                )
    return rows


def cleverhans_evaluation(model, images, labels, options, compiled):
    """Accuracy under CleverHans's PGD with a random start, batch by batch, as its tutorials have
    it.
    """
    attack = lambda x, y: cleverhans_pgd(
        model, x, y, options.eps, rand_init=True, rand_minmax=options.eps
    )
    predict = lambda x: tf.argmax(model(x, training=False), axis=1, output_type=tf.int32)
    if compiled:
        attack, predict = (
            tf.function(attack, reduce_retracing=True),
            tf.function(predict, reduce_retracing=True),
        )

    def evaluate():
        right = []
        for start in range(0, len(labels), options.batch_size):
            x, y = (
                tf.constant(part[start : start + options.batch_size]) for part in (images, labels)
            )
            right.append(predict(attack(x, y)).numpy() == y.numpy())
        return np.concatenate(right).mean()

    return evaluate


def table_of_evaluations(model, images, labels, options):
    """Seconds and accuracies of a whole evaluation: compiling included in the first run, and not in
    the others.
    """
    threat_model = ThreatModel("linf", options.eps)

    def native(precision):
        return lambda: rt.evaluate_robustness(
            model,
            images,
            labels,
            threat_model=threat_model,
            attacks=("pgd20",),
            batch_size=options.batch_size,
            precision=precision,
        ).accuracy["pgd20"]

    functions = {f"native {precision}": native(precision) for precision in options.precisions}
    functions["cleverhans"] = cleverhans_evaluation(model, images, labels, options, compiled=False)
    functions["cleverhans+tf.function"] = cleverhans_evaluation(
        model, images, labels, options, compiled=True
    )
    if options.profile:
        profile(f"evaluation by PGD-{STEPS}, ", functions)
        return []
    runs = {name: [] for name in functions}
    for _ in range(options.repeats + 1):
        for name, function in functions.items():
            runs[name].append(timed(function))
    print(
        f"PGD-{STEPS} with a random start on {len(labels)} examples, linf eps {options.eps:g}, "
        f"batch {options.batch_size}"
    )
    print(
        f"{'':<24} {'first run':>10} {'then':>9} {'cleverhans /':>13} {'CPU':>9} "
        f"{'cleverhans /':>13} {'accuracy':>9}"
    )
    then = {
        name: [statistics.median(part) for part in list(zip(*rest))[:2]]
        for name, (_, *rest) in runs.items()
    }
    base, rows = then["cleverhans"], []
    for name, ((first, _, accuracy), *_) in runs.items():
        seconds, processor = then[name]
        print(
            f"{name:<24} {first:8.1f} s {seconds:7.1f} s {base[0] / seconds:12.2f}x "
            f"{processor:7.1f} s {base[1] / processor:12.2f}x {accuracy:8.2%}"
        )
        rows.append(
            {
                "": name,
                "first run, s": first,
                "then, s": seconds,
                "CleverHans /": base[0] / seconds,
                "CPU s": processor,
                "CleverHans /, CPU": base[1] / processor,
                "accuracy, %": 100 * float(accuracy),
            }
        )
    with Lanes() as lanes:
        functions[f"native {options.precisions[0]}"]()
    lanes.print()
    print(flush=True)
    return rows


def table_of_autoattack(model, images, labels, options):
    """AutoAttack standard: seconds and robust accuracy of --repeats rounds, in each of which all
    take a turn. Compiling is included: each round attacks a model of its own.
    """
    import torch
    from torch_twin import TorchTwin

    sys.path.insert(0, str(options.autoattack))
    from autoattack import AutoAttack

    twin = TorchTwin(model, images[: options.batch_size])
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels, dtype=torch.long)

    def official():
        attack = AutoAttack(
            twin,
            norm="Linf",
            eps=options.eps,
            version="standard",
            seed=0,
            device="cpu",
            verbose=False,
        )
        found = attack.run_standard_evaluation(x, y, bs=options.batch_size)
        with torch.no_grad():
            return float((twin(found).argmax(1) == y).float().mean())

    def native(precision):
        # What is compiled is kept with the model: a copy has nothing.
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        return rt.evaluate_robustness(
            copy,
            images,
            labels,
            threat_model=ThreatModel("linf", options.eps),
            attacks=("autoattack",),
            batch_size=options.batch_size,
            precision=precision,
            check_model=False,
        ).accuracy["autoattack"]

    if options.profile:
        profile(
            "AutoAttack, ",
            {
                f"native {precision}": lambda p=precision: native(p)
                for precision in ("float32", "mixed")
            },
        )
        return []
    print(
        f"AutoAttack standard on {len(labels)} examples, linf eps {options.eps:g}, batch "
        f"{options.batch_size}"
    )
    print(
        f"{'':<24} {'seconds':>10} {'official /':>11} {'CPU':>9} {'official /':>11} {'accuracy':>9}"
    )
    functions = {
        "official, PyTorch": official,
        **{
            f"native {precision}": lambda p=precision: native(p)
            for precision in options.precisions
            if precision != "bfloat16"
        },
    }
    runs = {name: [] for name in functions}
    for turn in range(options.repeats):
        for name, function in functions.items():
            with Lanes() as lanes:
                runs[name].append(timed(function))
            seconds, processor, accuracy = runs[name][-1]
            base = runs["official, PyTorch"][turn]
            print(
                f"{name:<24} {seconds:8.1f} s {base[0] / seconds:10.2f}x {processor:7.1f} s "
                f"{base[1] / processor:10.2f}x {accuracy:8.2%}",
                flush=True,
            )
            if lanes.searches:
                lanes.print()
    middle = {
        name: [statistics.median(part) for part in list(zip(*turns))[:2]]
        for name, turns in runs.items()
    }
    base = middle["official, PyTorch"]
    return [
        {
            "": name,
            "seconds": seconds,
            "official /": base[0] / seconds,
            "CPU s": processor,
            "official /, CPU": base[1] / processor,
            "accuracy, %": 100 * runs[name][0][2],
        }
        for name, (seconds, processor) in middle.items()
    ]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", default=",".join(NETWORKS), help="comma-separated, of " + ", ".join(NETWORKS)
    )
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument(
        "--repeats",
        type=int,
        help="runs after the first, of which the median counts: 5; of AutoAttack, rounds: 1",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of TensorFlow and of PyTorch each"
    )
    parser.add_argument(
        "--model", help="a robust model to evaluate in place of the first table: see rt.load_model"
    )
    parser.add_argument("--dataset", default="mnist", help="of the model")
    parser.add_argument("--data_dir", help="TFDS directory")
    parser.add_argument(
        "--examples", type=int, default=1000, help="the first so many of the test set"
    )
    parser.add_argument("--eps", type=float, default=0.2)
    parser.add_argument(
        "--precisions", default="float32,mixed,bfloat16", help="of the native evaluations"
    )
    parser.add_argument(
        "--profile", action="store_true", help="print where the time goes, by kind of operation"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="the table as JSON too, with commit and machine"
    )
    parser.add_argument(
        "--autoattack",
        type=pathlib.Path,
        help="checkout of github.com/fra31/auto-attack; needs --model",
    )
    options = parser.parse_args()
    if options.repeats is None:
        options.repeats = 1 if options.autoattack else 5
    options.networks = options.networks.split(",")
    options.precisions = options.precisions.split(",")
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(
            f"unknown networks {', '.join(sorted(unknown))}; known are {', '.join(NETWORKS)}"
        )
    for name in ("batch_size", "repeats", "threads", "examples"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.autoattack and not options.model:
        parser.error("--autoattack compares on a model of yours; give --model and --dataset")
    if options.autoattack and not (options.autoattack / "autoattack" / "autoattack.py").exists():
        parser.error(
            f"--autoattack={options.autoattack} is no checkout of github.com/fra31/auto-attack"
        )
    if options.autoattack and not importlib.util.find_spec("torch"):
        parser.error("--autoattack needs PyTorch: pip install torch")
    return options


def main():
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(options.threads)
    if options.model:
        try:
            model = rt.load_model(options.model)
            data = load_data(
                options.dataset, "test", data_dir=options.data_dir, max_examples=options.examples
            )
        except rt.InputError as error:
            raise SystemExit(f"attacks.py: {error}") from None
        images, labels = data.images.astype(np.float32) / 255, data.labels.astype(np.int32)
        if options.autoattack:
            rows = table_of_autoattack(model, images, labels, options)
        else:
            rows = table_of_evaluations(model, images, labels, options)
    else:
        rows = table_of_attacks(options)
    if options.output and rows:
        speed.write(options.output, rows)
    devices = ", ".join(device.device_type for device in tf.config.list_logical_devices())
    versions = {
        module: sys.modules[module].__version__
        for module in ("torch", "torchattacks", "foolbox", "art")
        if module in sys.modules
    }
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, CleverHans 4.0.0, "
        + "".join(f"{name} {version}, " for name, version in versions.items())
        + f"{options.threads} threads, {devices}"
    )


if __name__ == "__main__":
    main()
