"""Plain training on natural images: the baseline of both papers."""

from tf_robust_transfer.methods.base import Method


class Natural(Method):
    """Cross-entropy on the images as they come (Eq. 1 of IGAM). Arguments: see `Method`."""
