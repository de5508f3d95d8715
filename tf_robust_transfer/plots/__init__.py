"""Figures, drawn by matplotlib into files, without a display."""

from tf_robust_transfer.plots.input_gradients import plot_input_gradients, scaled_gradients
from tf_robust_transfer.plots.loss_landscape import plot_loss_landscapes

__all__ = ["plot_input_gradients", "plot_loss_landscapes", "scaled_gradients"]
