"""Rules of the layers that all layouts have: linear, norms and patch convolutions."""

from __future__ import annotations

from histojax.weights.mapping import TensorRule


def linear(name: str, path: str, *, optional: bool = False) -> tuple[TensorRule, ...]:
    """Rules of a linear layer: weight and bias."""
    return (
        TensorRule(f"{name}.weight", f"{path}/kernel", "linear", optional),
        TensorRule(f"{name}.bias", f"{path}/bias", "vector", optional),
    )


def norm(name: str, path: str, *, optional: bool = False) -> tuple[TensorRule, ...]:
    """Rules of a LayerNorm: weight and bias."""
    return _vectors(name, path, {"weight": "scale", "bias": "bias"}, optional)


def batch_norm(name: str, path: str, *, optional: bool = False) -> tuple[TensorRule, ...]:
    """Rules of a BatchNorm: weight, bias and the running statistics."""
    leaves = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return _vectors(name, path, leaves, optional)


def patch_embed(name: str, path: str = "patch_embed") -> tuple[TensorRule, ...]:
    """Rules of a patch convolution: weight and bias."""
    return TensorRule(f"{name}.weight", f"{path}/kernel", "patch"), TensorRule(f"{name}.bias", f"{path}/bias")


def _vectors(name: str, path: str, leaves: dict[str, str], optional: bool) -> tuple[TensorRule, ...]:
    return tuple(TensorRule(f"{name}.{a}", f"{path}/{b}", "vector", optional) for a, b in leaves.items())
