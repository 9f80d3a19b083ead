"""Devices: how training state and batches lie on them."""
