"""The images of a command's flags."""

import numpy as np

from tf_robust_transfer import data
from tf_robust_transfer.data.augmentation import check_augmentations
from tf_robust_transfer.errors import InputError, of_flag


def load_split(config, split: str, limit: int = 0) -> data.ImageData:
    """A split of the data set; for a smoke run synthetic images where it is absent.

    limit: so many first images; 0 is --max_examples, where the command has it, or all."""
    fraction = getattr(config, "train_fraction", 1.0) if split == "train" else 1.0
    # In `train`, --max_examples is of the evaluation; a command that names its split means that
    # one.
    if not limit and (split != "train" or hasattr(config, "split")):
        limit = getattr(config, "max_examples", 0)
    try:
        return data.load_data(
            config.dataset,
            split,
            data_dir=config.data_dir or None,
            image_size=config.image_size,
            train_fraction=fraction,
            max_examples=limit or None,
            seed=config.seed,
            # A smoke run is to end in seconds, with or without a network.
            download=not getattr(config, "smoke", False),
            # A command that names its split evaluates on it.
            original_order=hasattr(config, "split") or None,
        )
    except InputError:
        if not getattr(config, "smoke", False) or config.dataset not in data.SHAPES:
            raise
        shape, num_classes = data.SHAPES[config.dataset]
        shape = (*(config.image_size or shape[:2]), shape[2])
        # So many that a part of each class can be held out.
        held_out = getattr(config, "validation_fraction", 0) and split == "train"
        count = 2 * num_classes if held_out else 16
        return data.synthetic_data(shape, num_classes, count, config.seed)


def load_train(config, worker=(0, 1)) -> data.ImageData | data.StreamedData | data.StreamedFolder:
    """The train split for a training: as `load_split`'s, but streamed where it is large.

    worker: (number, count) of the workers, among whom the files of streamed data are shared out."""
    try:
        found = data.load_training_data(
            config.dataset,
            data_dir=config.data_dir or None,
            image_size=config.image_size,
            train_fraction=config.train_fraction,
            seed=config.seed,
            download=not config.smoke,
            worker=worker,
            stream=config.stream,
        )
    except InputError:
        if not config.smoke:
            raise
        found = load_split(config, "train")  # which has synthetic images
    # Here, since a run that ends after its training began refuses the mended flags.
    with of_flag("augmentation"):
        check_augmentations(config.augmentation, found.input_shape[-1])
    return found


def pixels(images) -> np.ndarray:
    """float32 images in [0, 1] of uint8 ones."""
    return images.astype(np.float32) / np.float32(255)
