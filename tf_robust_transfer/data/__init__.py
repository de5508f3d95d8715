"""Data: images in memory or streamed, batches that can be resumed, augmentation and mixup."""

from tf_robust_transfer.data.augmentation import AUGMENTATIONS, augment
from tf_robust_transfer.data.datasets import (
    SHAPES,
    ImageData,
    list_datasets,
    load_data,
    synthetic_data,
)
from tf_robust_transfer.data.mixup import mixup, mixup_weights
from tf_robust_transfer.data.pipeline import eval_batches, steps_per_epoch, train_batches
from tf_robust_transfer.data.streaming import (
    StreamedData,
    load_training_data,
    stream_data,
    told_when_unreadable,
)

__all__ = [
    "AUGMENTATIONS",
    "ImageData",
    "SHAPES",
    "StreamedData",
    "augment",
    "eval_batches",
    "list_datasets",
    "load_data",
    "load_training_data",
    "mixup",
    "mixup_weights",
    "steps_per_epoch",
    "stream_data",
    "synthetic_data",
    "told_when_unreadable",
    "train_batches",
]
