"""Figures, drawn by matplotlib into files, without a display."""

from tf_robust_transfer.plots.input_gradients import input_gradient_image, plot_input_gradients
from tf_robust_transfer.plots.loss_landscape import plot_loss_landscapes

__all__ = ["input_gradient_image", "plot_input_gradients", "plot_loss_landscapes"]
