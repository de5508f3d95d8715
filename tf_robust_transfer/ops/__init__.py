"""Numerical helpers that every other package may use."""
