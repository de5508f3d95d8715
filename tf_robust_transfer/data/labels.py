"""Labels as data sets have them, to class numbers."""

import numpy as np

from tf_robust_transfer.errors import InputError


def class_labels(labels, num_classes: int) -> np.ndarray:
    """Class numbers from labels as Keras's data sets have them.

    Args:
        labels: integers [n] or [n, 1], or one-hot rows [n, num_classes] of any number type.
        num_classes: of the model.

    Returns:
        Integers [n].

    Raises:
        InputError: another shape or type, rows that are not one-hot, or a class out of range.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        if labels.shape[1] != num_classes:
            raise InputError(other_columns(num_classes, labels.shape[1]))
        if not one_hot(labels):
            raise InputError(NOT_ONE_HOT)
        return labels.argmax(axis=1).astype(np.int32)
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2):
        raise InputError(
            "labels must be integers [n] or [n, 1], or one-hot rows [n, classes], got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    labels = labels.reshape(-1)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise InputError(out_of_range(labels.min(), labels.max(), num_classes))
    return labels


def one_hot(rows) -> bool:
    """Whether every row has one 1 and is 0 elsewhere."""
    rows = np.asarray(rows, np.float64)
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 1).all())


NOT_ONE_HOT = "labels of two axes must be one-hot rows (one 1, the rest 0); give class numbers"


def other_columns(num_classes: int, columns) -> str:
    """What is said of rows of another width."""
    return (
        f"one-hot labels must have {num_classes} columns, one for each of the model's classes, got "
        f"{columns}"
    )


def out_of_range(low, high, num_classes: int) -> str:
    """What is said of labels outside the model's classes."""
    return (
        f"labels must lie in 0..{num_classes - 1} for a model of {num_classes} logits, got {low} "
        f"to {high}"
    )
