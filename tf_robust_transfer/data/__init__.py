"""Data: images in memory or streamed, batches that can be resumed, augmentation and mixup."""

from tf_robust_transfer.data.augmentation import AUGMENTATIONS, augment
from tf_robust_transfer.data.datasets import (
    SHAPES,
    ImageData,
    check_split,
    known_splits,
    list_datasets,
    load_data,
    synthetic_data,
)
from tf_robust_transfer.data.folder_streaming import StreamedFolder, stream_folder
from tf_robust_transfer.data.images import hold_out
from tf_robust_transfer.data.mixup import mixup, mixup_weights
from tf_robust_transfer.data.pipeline import eval_batches, steps_per_epoch, train_batches
from tf_robust_transfer.data.streaming import StreamedData, stream_data, told_when_unreadable
from tf_robust_transfer.data.training import load_training_data

__all__ = [
    "AUGMENTATIONS",
    "ImageData",
    "SHAPES",
    "StreamedData",
    "StreamedFolder",
    "augment",
    "check_split",
    "eval_batches",
    "hold_out",
    "known_splits",
    "list_datasets",
    "load_data",
    "load_training_data",
    "mixup",
    "mixup_weights",
    "steps_per_epoch",
    "stream_data",
    "stream_folder",
    "synthetic_data",
    "told_when_unreadable",
    "train_batches",
]
