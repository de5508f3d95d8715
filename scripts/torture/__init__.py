"""Faults of use, made on purpose: see `sections` and docs/reliability.md."""
