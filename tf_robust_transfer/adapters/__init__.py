"""Adapters: differentiable maps from the target task's images to a teacher's input (section 4.3 of
the IGAM paper).

An adapter is written as text, "resize:64x64" or "channel_mean+crop:28x28" (`ADAPTERS` has the
names). `adapt` puts it before a teacher and gives one keras.Model, which takes the student's
images; from there on nothing else needs to know that there is an adapter. The teacher's input
gradient is that with respect to the student's image (Eq. 17), because the model's input is."""

from tf_robust_transfer.adapters.build import (
    ADAPTERS,
    adapt,
    build_adapter,
    check_adapter,
    seen_region,
)
from tf_robust_transfer.adapters.layers import Adapter, SizedAdapter
from tf_robust_transfer.adapters.positions import random_positions

__all__ = [
    "ADAPTERS",
    "Adapter",
    "SizedAdapter",
    "adapt",
    "build_adapter",
    "check_adapter",
    "random_positions",
    "seen_region",
]
