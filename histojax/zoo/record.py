"""What a published encoder is: one row of data. Everything else asks the record.

The rows are in `rows_dino.py`, `rows_paper.py` and `rows_pathology.py`; `table.py` finds them by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """From an RGB tile, uint8, to what the network sees: resize, crop, then (x * scale - mean) / std.

    Args:
        size: the shorter side is resized to it; a tile that has it already is left alone.
        crop: side of the centre square that is kept; None keeps everything.
        filter: Pillow's "bilinear" or "bicubic", both antialiased; "none": never resized, other sizes are an error.
        mean, std: per channel, in units of `x * scale`.
        scale: factor in front of the grey levels.
    """

    size: int
    crop: int | None = None
    filter: str = "bilinear"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    scale: float = 1 / 255

    @property
    def side(self) -> int:
        """Side in pixels of what becomes of a square tile."""
        return self.crop or self.size

    def describe(self) -> str:
        """One line for people."""
        crop = f", centre crop {self.crop}" if self.crop else ""
        numbers = [", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std)]
        fitted = f"resize {self.size} {self.filter}{crop}" if self.filter != "none" else f"{self.side} px as they are"
        scale = {1 / 255: "0..1", 1.0: "0..255", 1 / 255**2: "0..1/255"}.get(self.scale, f"x {self.scale:g}")
        return f"{fitted}; {scale}, mean ({numbers[0]}), std ({numbers[1]})"


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """One published file of weights.

    Args:
        file: name of the file; for a hub, its path in the repository.
        url: address, if it can be downloaded by a program.
        hub: Hugging Face repository ("owner/name", "datasets/owner/name"), instead of `url`.
        sha256: in hex; None: not known to us, and the download is called unverified.
        size: bytes.
        layout: how its tensors are named, see histojax.weights; "": recognised when read.
        which: "teacher" or "student" where the file holds, or may hold, both.
        part: name of the file where a record has several ("student_dino_head"); the first file is the encoder.
        page: web page for people: terms to accept, links to follow.
    """

    file: str
    url: str = ""
    hub: str = ""
    sha256: str | None = None
    size: int | None = None
    layout: str = ""
    which: str | None = None
    part: str = ""
    page: str = ""

    @property
    def home(self) -> str:
        """The page that people are sent to."""
        return self.page or (f"https://huggingface.co/{self.hub}" if self.hub else self.url)

    @property
    def cached(self) -> str:
        """Path in the cache folder; many hubs call their file pytorch_model.bin."""
        return f"{self.hub.replace('/', '--')}/{self.file}" if self.hub else self.file


@dataclasses.dataclass(frozen=True)
class EncoderRecord:
    """A published encoder.

    Args:
        name: what we call it, lower case with underscores.
        network: configuration of the network as its file has it (ViTConfig, SamConfig, ...).
        weights: published files; the first one is the encoder, others are further `part`s of a training.
        preprocess: what its authors do to a tile.
        pooling: a key of models.network.POOLINGS: which feature of the network.
        features: width of that feature.
        mpp: micrometres per pixel that it was made for; None: not made for microscopy, or not stated.
        licence: of the weights.
        gated: terms must be accepted on a web page before the file can be downloaded.
        commercial: whether the licence allows commercial use; None: unknown.
        derivatives: whether it allows derived weights (a finetuned model, a converted file) to be passed on.
        aliases: other spellings: Meta's, timm's, Hugging Face's, TRIDENT's. Case, "-", "_", "." and "/" do not matter.
        paper_row: the row of Table 3 in Roth, Koch et al. 2023 that it is, if any.
        positions: how the position grid is resampled, where the user wants another way than the network's own: a mode
            of weights.pos_embed, which the network's configuration has as well.
        notes: what else one should know. "recalled, check": from memory, not from a file or a source.
    """

    name: str
    network: Any
    weights: tuple[WeightFile, ...]
    preprocess: Preprocess
    pooling: str
    features: int
    mpp: float | None
    licence: str
    gated: bool = False
    commercial: bool | None = None
    derivatives: bool | None = None
    aliases: tuple[str, ...] = ()
    paper_row: str = ""
    notes: str = ""
    positions: str = ""

    @property
    def preprocess_hash(self) -> str:
        """SHA-256 in hex of all that makes the feature beside the weights: features of different hashes do not mix."""
        facts = {**dataclasses.asdict(self.preprocess), "pooling": self.pooling}
        facts |= {"positions": self.positions} if self.positions else {}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def terms(self) -> str:
        """The licence and what it means, in one line."""
        said = {None: "unknown", True: "yes", False: "no"}
        return (
            f"{self.licence}; commercial use: {said[self.commercial]}, derivatives: {said[self.derivatives]}"
            f"{'; gated' if self.gated else ''}"
        )
