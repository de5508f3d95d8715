"""What a training step of each method costs beside a PGD-7 step, on the clock and in operations, in
one run.

    python benchmarks/training_cost.py [--networks=small_cnn,wrn_10_2] [--batch_size=32]
    [--repeats=5] [--threads=1]
        [--profile]

Teacher and student are of the same network and size. Every step is the one that `fit` runs
(`make_train_function`), on images of the right shape made up from a seed; the methods take turns,
and medians are printed, with the range of a turn's ratio to the PGD-7 turn of the same round. The
operations are those that TensorFlow's profiler counts in the step's graph, each kind of step for
itself; an attack's loop, which it does not see into, is counted as 7 input gradients. --profile
prints instead where each step's time goes, by kind of operation. benchmarks/README.md has figures
and says where clock and count part."""

import argparse
import contextlib
import functools
import io
import os
import time

import keras
import numpy as np
import profiling
import tensorflow as tf

from tf_robust_transfer import methods
from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
from tf_robust_transfer.losses import classification
from tf_robust_transfer.models import build_discriminator, build_model
from tf_robust_transfer.models.discriminator import DISCRIMINATOR_CHANNELS
from tf_robust_transfer.models.endpoints import endpoints
from tf_robust_transfer.ops.gradients import input_gradient

NETWORKS = {
    "small_cnn": ((28, 28, 1), {}),
    "madry_mnist": ((28, 28, 1), {}),
    "wrn_10_2": ((28, 28, 1), {"stem_stride": 2}),
    "wrn_10_4": ((32, 32, 3), {}),
    "wrn_16_4": ((32, 32, 3), {}),
}
THREAT_MODEL = ThreatModel("linf", 8 / 255)
PGD_STEPS = 7
# The reference code trains 280,000 of its 320,000 steps on the plain loss (docs/facts.md).
WARM_SHARE = 280 / 320
DISCRIMINATOR_EVERY = 5


def contestants(network):
    """name -> compiled method, each around its own networks."""
    shape, arguments = NETWORKS[network]

    def fresh():
        return build_model(network, shape, 10, **arguments)

    attack = dict(threat_model=THREAT_MODEL)
    teacher = fresh()
    game = dict(teacher=teacher, discriminator_every=DISCRIMINATOR_EVERY)
    blocks = [name for name, output in endpoints(teacher).output.items() if len(output.shape) == 4]
    result = {
        "natural": methods.Natural(student=fresh()),
        "FGSM": methods.AdversarialTraining(
            student=fresh(), attack=FGSM(1.25 * 8 / 255, random_start=True), **attack
        ),
        f"PGD-{PGD_STEPS}": methods.AdversarialTraining(
            student=fresh(), attack=PGD(PGD_STEPS, 2 / 255), **attack
        ),
        "MixACM": methods.MixACM(student=fresh(), teacher=teacher, blocks=blocks),
        "IGAM, l2 term only": methods.IGAM(student=fresh(), lambda_adv=0.0, **game),
        "IGAM": methods.IGAM(student=fresh(), discriminator=build_discriminator(shape), **game),
        # Appendix A's smaller discriminator, and the teacher's way back in bfloat16 where the
        # processor gains by it.
        "IGAM, 8-64": methods.IGAM(
            student=fresh(),
            discriminator=build_discriminator(shape, channels=DISCRIMINATOR_CHANNELS["8-64"]),
            teacher_precision="auto",
            **game,
        ),
    }
    for method in result.values():
        method.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True))
    return result


def counted(function, *arguments) -> float:
    """Floating point operations of a function without loops, by TensorFlow's profiler.

    What no output and no assignment needs is cut away first, as it is when the function runs: a
    tape's graph holds the gradients by weights and image alike, whichever was asked for."""
    graph = tf.function(function, autograph=False).get_concrete_function(*arguments).graph
    outputs = [output.op.name for output in graph.outputs] + [
        operation.name for operation in graph.control_outputs
    ]
    needed = {
        node.name
        for node in tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), outputs).node
    }
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        scopes = [tf.compat.v1.profiler.profile(graph, options=options)]
    operations = 0
    while scopes:
        scope = scopes.pop()
        operations += scope.float_ops * (scope.name in needed)
        scopes.extend(scope.children)
    return operations


def operations(compiled, images, labels) -> dict[str, float]:
    """Operations of a step of each method, those in bfloat16 included; IGAM's are the mean over
    steps with and without the discriminator's update."""

    def attack_step(x, y):
        student = compiled["natural"].student
        return input_gradient(
            lambda at: (classification.cross_entropy(student(at, training=False), y), None), x
        )[0]

    step = {
        name: (lambda x, y, m=method: m.train_step((x, y))) for name, method in compiled.items()
    }
    natural, gradient = (
        counted(step["natural"], images, labels),
        counted(attack_step, images, labels),
    )
    result = {
        "natural": natural,
        "FGSM": natural + gradient,
        f"PGD-{PGD_STEPS}": natural + PGD_STEPS * gradient,
    }
    for name in ("MixACM", "IGAM, l2 term only"):
        compiled[name]._update_discriminator = False
        result[name] = counted(step[name], images, labels)
    for name in ("IGAM", "IGAM, 8-64"):
        kinds = []
        for compiled[name]._update_discriminator in (True, False):
            # tf.function keeps the graph of a function that it has seen: a new one for each kind.
            kinds.append(
                counted(lambda x, y, m=compiled[name]: m.train_step((x, y)), images, labels)
            )
        result[name] = kinds[0] / DISCRIMINATOR_EVERY + kinds[1] * (1 - 1 / DISCRIMINATOR_EVERY)
    return result


def turns_of_steps(compiled, images, labels) -> dict:
    """name -> function that takes DISCRIMINATOR_EVERY steps and waits for the last."""
    dataset = tf.data.Dataset.from_tensors((images, labels)).repeat()

    def turn(method, iterator):
        for _ in range(DISCRIMINATOR_EVERY):
            logs = method.train_function(iterator)
        float(logs["loss"])

    for method in compiled.values():
        method.make_train_function()  # IGAM's own chooses the kind of each step
    return {
        name: functools.partial(turn, method, iter(dataset)) for name, method in compiled.items()
    }


def measure(compiled, images, labels, repeats) -> dict[str, list[float]]:
    """Seconds a step, by round; a turn is DISCRIMINATOR_EVERY steps, so that IGAM's has one update
    of the discriminator.
    """
    functions = turns_of_steps(compiled, images, labels)
    turns = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:  # the first compiles
                turns[name].append((time.perf_counter() - start) / DISCRIMINATOR_EVERY)
    return turns


def with_epochs(costs: dict) -> dict:
    """The costs, as arrays, and those of IGAM's mean step under the reference schedule, most of
    whose steps are natural.
    """
    costs = {name: np.asarray(cost) for name, cost in costs.items()}
    whole = {
        f"{name}, whole schedule": WARM_SHARE * costs["natural"] + (1 - WARM_SHARE) * costs[name]
        for name in ("IGAM", "IGAM, 8-64")
    }
    return costs | whole


def table(network, options):
    shape, _ = NETWORKS[network]
    random = np.random.default_rng(0)
    images = tf.constant(random.random((options.batch_size, *shape)), tf.float32)
    labels = tf.constant(random.integers(0, 10, options.batch_size), tf.int32)
    keras.utils.set_random_seed(0)
    compiled = contestants(network)
    if options.profile:
        for name, function in turns_of_steps(compiled, images, labels).items():
            function()
            profiling.print_profile(f"{network} {name}, {DISCRIMINATOR_EVERY} steps", function)
        return
    count = with_epochs(operations(compiled, images, labels))
    turns = with_epochs(measure(compiled, images, labels, options.repeats))
    base = f"PGD-{PGD_STEPS}"
    seconds = {name: np.median(turn) for name, turn in turns.items()}
    print(
        f"{network}, {shape[0]}x{shape[1]}x{shape[2]}, batch {options.batch_size}, "
        f"{options.threads} thread(s)"
    )
    print(
        f"{'':<34} {'ms a step':>10} {'/ ' + base:>8} {'range':>13} {'GFLOP':>8} {'/ ' + base:>8} "
        f"{'GFLOP/s':>8}"
    )
    for name in seconds:
        ratios = turns[name] / turns[base]
        print(
            f"{name:<34} {1000 * seconds[name]:10.1f} {seconds[name] / seconds[base]:8.3f} "
            f"{ratios.min():.3f} - {ratios.max():.3f} {count[name] / 1e9:8.3f} "
            f"{count[name] / count[base]:8.3f} {count[name] / seconds[name] / 1e9:8.1f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", default="madry_mnist,wrn_10_2,wrn_10_4", help="of " + ", ".join(NETWORKS)
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--repeats", type=int, default=5, help="turns after the first, of which the median counts"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of TensorFlow")
    parser.add_argument(
        "--profile", action="store_true", help="print where the time goes, by kind of operation"
    )
    options = parser.parse_args()
    networks = options.networks.split(",")
    if unknown := set(networks) - set(NETWORKS):
        parser.error(
            f"unknown networks {', '.join(sorted(unknown))}; known are {', '.join(NETWORKS)}"
        )
    for name in ("batch_size", "repeats", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    for network in networks:
        table(network, options)
    print("the paper (section 5.2.5 of IGAM): an IGAM epoch 347 s, a PGD-7 epoch 815 s: 0.426")


if __name__ == "__main__":
    main()
