"""Trains a model with two workers of Ray Train, on one machine or on a cluster of Ray's.

    python examples/ray_train.py --dataset=digits --train_steps=20 --run_dir=/tmp/runs/ray

The flags are those of `train`. The run folder lies where all workers see it under the same name.
Needs the extra [ray].
"""

import sys

from ray.train import ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

# Ray gives a worker one CPU, or one GPU with use_gpu=True.
WORKERS = ScalingConfig(num_workers=2)


def train(flags):
    """Runs in each worker's process, where Ray has set TF_CONFIG."""
    from tf_robust_transfer.train import main

    main([*flags["flags"], "--distribution_strategy=multi_worker_mirrored"])


def main(flags):
    TensorflowTrainer(train, train_loop_config={"flags": flags}, scaling_config=WORKERS).fit()


if __name__ == "__main__":
    main(sys.argv[1:])
