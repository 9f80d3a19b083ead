"""What a model of bags is made of and how it is trained, with the published values as defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from histojax.common.errors import UserError

Model = Literal["transformer", "attention", "gated_attention", "transmil", "mean"]
DEFAULTS: dict[str, dict[str, Any]] = {  # what None stands for, of each model
    "transformer": {"width": 512, "dropout": 0.0},
    "attention": {"width": 256, "dropout": 0.5},
    "gated_attention": {"width": 256, "dropout": 0.5},
    "transmil": {"width": 512, "dropout": 0.1},
    "mean": {"width": 0, "dropout": 0.0},
}


@dataclass(frozen=True)
class HeadSettings:
    """A model of bags.

    Args:
        model: "transformer" (Wagner et al. 2023), "attention" and "gated_attention" (Ilse et al. 2018), "transmil"
            (Shao et al. 2021), or "mean": the mean of all tiles and a linear layer.
        inputs: features of a tile.
        outputs: see `tasks.outputs`.
        width: features inside; None: 512, or 256 for both of attention. A transformer's is heads * dim_head.
        heads, depth, pool: of the transformer; `pool` "cls" reads the class token, "mean" averages the tiles (no class
            token then).
        hidden: features between a tile and its attention score.
        landmarks: of TransMIL's attention.
        dropout: None: as published, see `DEFAULTS`.
        eps: of LayerNorms.
    """

    model: Model = "transformer"
    inputs: int = 768
    outputs: int = 1
    width: int | None = None
    heads: int = 8
    depth: int = 2
    pool: Literal["cls", "mean"] = "cls"
    hidden: int = 128
    landmarks: int = 256
    dropout: float | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.model not in DEFAULTS:
            raise UserError(f"no model of bags is called {self.model!r}; there are {', '.join(DEFAULTS)}")
        for name, value in DEFAULTS[self.model].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.model in ("transformer", "transmil") and self.size % self.heads:
            raise UserError(f"a width of {self.width} cannot be shared by {self.heads} heads")

    @property
    def size(self) -> int:
        """The width, which is a number once the defaults are in."""
        return self.width or 0

    @property
    def dim_head(self) -> int:
        """Features of one attention head."""
        return self.size // self.heads

    @property
    def rate(self) -> float:
        """The dropout, which is a number once the defaults are in."""
        return self.dropout or 0.0


@dataclass(frozen=True)
class TrainSettings:
    """The published recipe: AdamW without schedule or clipping, a step a bag, in float32.

    Args:
        epochs: passes over the training bags, in another order each.
        learning_rate, weight_decay: of AdamW, on all parameters; betas 0.9 and 0.999, eps 1e-8.
        validate_every: training steps between two looks at the validation part, at most a pass; the count runs on
            from pass to pass.
        keep: the step whose parameters are kept has the lowest validation loss, or the highest AUROC.
        seed: of the parameters, the order, dropout and drawn tiles.
        max_tiles: tiles of a bag that a training step sees, drawn anew each time; 0: all. Validation sees all.
        augmented: how often a training step takes an augmented copy of a bag that has them.
        risk_set: survival: bags a step whose risks are compared with each other.
    """

    epochs: int = 8
    learning_rate: float = 2e-5
    weight_decay: float = 2e-5
    validate_every: int = 1000
    keep: Literal["loss", "auroc"] = "loss"
    seed: int = 0
    max_tiles: int = 0
    augmented: float = 0.5
    risk_set: int = 32

    def __post_init__(self) -> None:
        if self.keep not in ("loss", "auroc"):
            raise UserError(f"keep={self.keep!r}: the step to keep is chosen by 'loss' or 'auroc'")
        for name in ("epochs", "validate_every", "risk_set"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected 1 or more")
