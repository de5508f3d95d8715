"""Figures, drawn by matplotlib into files, without a display."""

from tf_robust_transfer.plots.input_gradients import input_gradient_image, plot_input_gradients

__all__ = ["input_gradient_image", "plot_input_gradients"]
