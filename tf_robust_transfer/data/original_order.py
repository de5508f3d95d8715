"""The order of the original files, for data that TFDS's own builders wrote.

TFDS writes examples in the order of a hash of their keys. MNIST's and Fashion-MNIST's keys are the
places in the original files, CIFAR's `id` holds them; so the order can be undone. Attack files of
MadryLab's challenges and RobustBench's "first 1,000" count in the original order."""

import re

import numpy as np

ORIGINAL, STORED = "original", "as stored"
# The first labels of the original files, and how many there are of each class: data of these counts
# with other first labels was given its keys in another order.
_MNIST_COUNTS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
_FIRST_LABELS = {
    ("mnist", "train"): (_MNIST_COUNTS["train"], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]),
    ("mnist", "test"): (_MNIST_COUNTS["test"], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
    ("fashion_mnist", "train"): ([6000] * 10, [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]),
    ("fashion_mnist", "test"): ([1000] * 10, [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
}
_BY_KEY = ("mnist", "fashion_mnist")
_BY_ID = ("cifar10", "cifar100")


def may_be_restored(info, split: str) -> bool:
    """Whether a split's examples are to be read whole and handed to `original_order`.

    info: of a TFDS builder; split: its name, not a slice, which is of the stored order."""
    own = info.as_proto.module_name.startswith("tensorflow_datasets.")
    known = info.name in _BY_KEY or (info.name in _BY_ID and "id" in info.features)
    return own and known and split in info.splits


def original_order(info, split: str, labels, ids=None):
    """The places of a whole split's stored examples in the original order.

    Args:
        info, split: see `may_be_restored`.
        labels: int [n], in stored order.
        ids: bytes [n], CIFAR's `id`, such as b"test_00017".

    Returns:
        int64 [n], so that stored[result] is in the original order; or None where the data cannot be
        in TFDS's order.
    """
    count = len(labels)
    if info.name in _BY_ID:
        found = [re.fullmatch(rb"(?:train|test)_(\d+)", bytes(name)) for name in ids]
        if not all(found):
            return None
        places = np.array([int(match[1]) for match in found])
    else:
        places = np.arange(count) if info.disable_shuffling else _hashed(split, count)
    if not np.array_equal(np.sort(places), np.arange(count)):
        return None
    order = np.argsort(places)
    counts, first = _FIRST_LABELS.get((info.name, split), (None, None))
    if np.bincount(labels).tolist() == counts and labels[order[: len(first)]].tolist() != first:
        return None
    return order


def _hashed(split, count):
    """The keys 0, 1, ... in the order in which TFDS writes them: of hashes salted by the split."""
    from tensorflow_datasets.core import hashing

    hasher = hashing.Hasher(split)
    return np.array(sorted(range(count), key=hasher.hash_key))
