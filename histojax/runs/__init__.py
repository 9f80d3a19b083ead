"""A run's folder: its config, provenance and metrics. No jax here."""
