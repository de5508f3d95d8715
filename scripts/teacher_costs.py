"""What an input gradient of each teacher's network costs, for COSTS in checkpoints/teacher_rows.py.

    python scripts/teacher_costs.py [NETWORK KIND SIZE]

Prints a line for each network: parameters in millions, GiB of memory and seconds of one core's time
for one input gradient of 128 images. 128 images of the larger networks do not fit this memory:
measured are 4 and 12 images (of 224 pixels 2 and 6), from which both are extended in a straight
line. Each network has a process of its own, since a process's peak memory only grows."""

import os
import resource
import subprocess
import sys
import time

BATCH = 128


def measure(network: str, kind: str, size: int) -> str:
    """The line of a network on images of size x size."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tf_robust_transfer.checkpoints.teacher_kinds import KINDS
    from tf_robust_transfer.models import build_model

    classes = 10 if size == 32 else 1000
    model = build_model(network, (size, size, 3), classes, **KINDS[kind].options)

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3))])
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(keras.ops.logsumexp(model(images, training=False), axis=-1))
        return tape.gradient(loss, images)

    def images(number):
        return tf.constant(rng.uniform(size=(number, size, size, 3)), "float32")

    rng, seconds, gibibytes = np.random.default_rng(0), [], []
    sizes = (4, 12) if size == 32 else (2, 6)
    gradient(images(sizes[0]))
    for number in sizes:
        batch, start = images(number), time.process_time()
        gradient(batch)
        seconds.append(time.process_time() - start)
        gibibytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)

    def extended(values):
        slope = (values[1] - values[0]) / (sizes[1] - sizes[0])
        return values[1] + (BATCH - sizes[1]) * slope

    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) / 1e6
    figures = f"{parameters:.1f} {extended(gibibytes):.1f} {extended(seconds):.0f}"
    return f"{network} {kind} {size} {figures}"


def main() -> None:
    if len(sys.argv) == 4:
        print(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
        return
    from tf_robust_transfer.checkpoints.teacher_kinds import KINDS
    from tf_robust_transfer.checkpoints.teachers import TEACHERS

    measured = {}
    for row in sorted(dict.fromkeys((row.network, row.kind, row.size) for row in TEACHERS)):
        network, kind, size = row
        same = network, str(KINDS[kind].options), size
        if same not in measured:
            environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [sys.executable, __file__, *map(str, row)]
            found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            measured[same] = found.stdout.split()[3:]
        print(network, kind, size, *measured[same], flush=True)


if __name__ == "__main__":
    main()
