"""Losses as free functions. Each returns one value per example; `ops.replicas` alone reduces."""
