"""What a step of two workers on this machine takes, beside what the formula of
docs/guide/several_machines.md says.

    python benchmarks/several_workers.py [--networks=small_cnn,madry_mnist] [--batch_size=64]
    [--steps=60] [--rounds=3] [--output=docs/results/speed/several_workers.json]

Each worker has one thread. First two processes train apart, each on its half of the batch: the
step's compute. Then two workers measure the link, by a small and a large all-reduce, and train
together. What else the machine does makes single steps slow: a low quantile of the steps is taken,
and of the rounds the lowest."""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

NETWORKS = {
    "small_cnn": ((8, 8, 1), {"batch_norm": True}),
    "madry_mnist": ((28, 28, 1), {}),
    "wrn_10_4": ((32, 32, 3), {}),
}
LOW = 0.1  # quantile
LARGE = 2**22  # floats of the large reduction, 16 MiB


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default="small_cnn,madry_mnist")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, help="a record: see speed.py")
    parser.add_argument("--worker", help="for itself")
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.worker, arguments.batch_size, arguments.steps)))
        return
    rows = []
    for network in arguments.networks.split(","):
        apart, together = [], []
        for _ in range(arguments.rounds):
            half = arguments.batch_size // 2
            apart += both(network, half, arguments.steps, [None, None])
            names = [f"localhost:{port}" for port in free_ports(2)]
            clusters = [
                {"cluster": {"worker": names}, "task": {"type": "worker", "index": i}}
                for i in range(2)
            ]
            together += both(network, arguments.batch_size, arguments.steps, clusters)
        rows.append(row(network, apart, together))
        print(rows[-1], flush=True)
    if arguments.output:
        import speed

        speed.write(arguments.output, rows)


def row(network, apart, together):
    compute = min(found["step"] for found in apart)
    step, small, large = (
        min(found[name] for found in together) for name in ("step", "small", "large")
    )
    size, reductions = apart[0]["bytes"], 2 + 4 * apart[0]["batch_norms"]
    bandwidth = 4 * LARGE / (large - small)  # 2 (n - 1) / n is 1 for two workers
    predicted = compute + size / bandwidth + reductions * small
    return {
        "network": network,
        "compute, ms": 1000 * compute,
        "gradients, MB": size / 1e6,
        "reductions": reductions,
        "bandwidth, MB/s": bandwidth / 1e6,
        "latency, ms": 1000 * small,
        "predicted, ms": 1000 * predicted,
        "measured, ms": 1000 * step,
        "measured / predicted": step / predicted,
    }


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def both(network, batch_size, steps, clusters):
    """What two processes found that started at once."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, f"--worker={network}", f"--batch_size={batch_size}",
             f"--steps={steps}"],
            env=os.environ | ({"TF_CONFIG": json.dumps(cluster)} if cluster else {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        for cluster in clusters
    ]  # fmt: skip
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def work(network, batch_size, steps):
    """Seconds of a step and of the reductions, in one worker."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_robust_transfer as rt
    from tf_robust_transfer.runs.strategy import distribution_strategy

    tf.config.threading.set_intra_op_parallelism_threads(1)
    several = "TF_CONFIG" in os.environ
    strategy = distribution_strategy("multi_worker_mirrored" if several else "one_device")
    shape, options = NETWORKS[network]
    with strategy.scope():
        method = rt.Natural(student=rt.build_model(network, shape, 10, **options))
        method.compile(keras.optimizers.SGD(0.01))
    images = np.random.default_rng(0).uniform(size=(batch_size, *shape)).astype(np.float32)
    batches = tf.data.Dataset.from_tensors((images, np.arange(batch_size) % 10)).repeat()
    ends = []
    noted = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(clock())
    )
    method.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[noted])
    found = {
        "step": float(np.quantile(np.diff(ends[3:]), LOW)),
        "bytes": sum(4 * int(np.prod(v.shape)) for v in method.student.trainable_variables),
        "batch_norms": sum(
            isinstance(layer, keras.layers.BatchNormalization)
            for layer in method.student._flatten_layers()
        ),
    }
    if several:
        found |= {"small": reduction(strategy, 1, 20), "large": reduction(strategy, LARGE, 2)}
    return found


clock = time.perf_counter


def reduction(strategy, numbers, times):
    """Seconds of an all-reduce of so many floats; so many are waited for, one after the other."""
    import numpy as np
    import tensorflow as tf

    @tf.function
    def reduce():
        def each():
            value = tf.fill([numbers], 1e-6)
            for _ in range(times):
                context = tf.distribute.get_replica_context()
                value = context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            return value[0]

        return strategy.run(each)

    found = []
    for _ in range(32):
        start = clock()
        reduce()
        found.append((clock() - start) / times)
    return float(np.quantile(found[2:], LOW))


if __name__ == "__main__":
    main()
