"""The examples of an evaluation, checked and in memory."""

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.threat_model import check_batch
from tf_robust_transfer.data.labels import class_labels
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.bounds import divided_already


def image_shape(images):
    """(height, width, channels) of an array or a dataset of images, None where it does not say."""
    if isinstance(images, tf.data.Dataset):
        spec = images.element_spec
        shape = getattr(spec[0], "shape", ()) if isinstance(spec, tuple) and spec else ()
    else:
        shape = np.shape(images)
    return tuple(shape[1:]) if len(shape) == 4 else None


def collect(model, images, labels, threat_model, batch_size):
    """All examples as arrays: images float32, labels int32, checked batch by batch.

    labels: as `data.labels.class_labels` takes them."""
    if isinstance(images, tf.data.Dataset):
        spec = images.element_spec
        if labels is not None or not isinstance(spec, tuple) or len(spec) != 2:
            raise InputError(
                "a dataset holds batches (images, labels) and takes the place of images and labels "
                "both"
            )
        if int(images.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise InputError(
                "the dataset never ends; evaluate one without repeat(), or use take(n)"
            )
        batches = images
    else:
        if labels is None:
            raise InputError(
                "labels are missing; leave them out only where images is a dataset of (images, "
                "labels)"
            )
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim != 4 or labels.shape[:1] != images.shape[:1]:
            raise InputError(
                "images must have shape [num_examples, height, width, channels] and labels "
                f"[num_examples], got {list(images.shape)} and {list(labels.shape)}"
            )
        starts = range(0, len(labels), batch_size)
        batches = ((images[i : i + batch_size], labels[i : i + batch_size]) for i in starts)
    classes = model.output_shape[-1]
    checked = [
        check_batch(model, x, class_labels(y, max(classes, 2)), threat_model) for x, y in batches
    ]
    if not sum(len(labels) for _, labels in checked):
        raise InputError("there are no examples to evaluate")
    wrong = divided_already(
        threat_model.bounds, max(float(tf.reduce_max(images)) for images, _ in checked)
    )
    if wrong:
        raise InputError(wrong)
    return tuple(
        np.concatenate([part.numpy() for part in parts]) for parts in zip(*checked, strict=True)
    )
