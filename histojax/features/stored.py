"""What a feature file says, whoever wrote it: arrays, geometry of the tiles, and who made the features of what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.weights.licence import Link


@dataclass(frozen=True)
class Geometry:
    """Where tiles lie and how large they are; None: the file does not say.

    Args:
        tile_px: side of a tile in its own pixels.
        mpp: micrometres per pixel of the tile, as it is, not as it was asked for.
        footprint_px: side of a tile in level-0 pixels of its slide.
        overlap_px: shared by neighbours, in pixels of the tile.
        slide_mpp: micrometres per level-0 pixel.
        slide_mpp_from: where that is known from.
        slide_size: (width, height) of level 0.
        slide_bytes: of the slide's file, which tell it from another one of its name.
        slide_sample: digest of some of them, which do so for files of one size.
        annotations: digest of those that its tiles were chosen by.
        magnification: the nominal one of the tile that the file names; 10 may be 0.8 to 1.2 mpp.
    """

    tile_px: int | None = None
    mpp: float | None = None
    footprint_px: float | None = None
    overlap_px: float | None = None
    slide_mpp: float | None = None
    slide_mpp_from: str = ""
    slide_size: tuple[int, int] | None = None
    slide_bytes: int | None = None
    magnification: float | None = None
    slide_sample: str = ""
    annotations: str = ""


NOT_KNOWN = Geometry()


@dataclass(frozen=True)
class Origin:
    """Who made features, and of what; "" is not known.

    Args:
        producer: program and version.
        encoder: its name, as the program spells it.
        weights, weights_sha256: name of the file, and its hash.
        preprocess_sha256: of all that decides the feature but the weights, see zoo.record.EncoderRecord.
        pooling: which feature of the network, a key of models.network.POOLINGS.
        compute_dtype: of the matrix products.
        stain: how the colours of the tiles were normalised, "none" if they were not.
        selection_sha256: of the settings that chose the tiles.
        read_from: "slides", "store (jpeg 90)" or "patches".
        licences: of the weights and of all that went into them.
        notes: what the file leaves open and a reader had to take for granted.
    """

    producer: str = ""
    encoder: str = ""
    weights: str = ""
    weights_sha256: str = ""
    preprocess_sha256: str = ""
    pooling: str = ""
    compute_dtype: str = ""
    stain: str = ""
    selection_sha256: str = ""
    read_from: str = ""
    licences: tuple[Link, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """A feature file without its arrays: `tiles` rows of `width` numbers of `dtype`, of the slide `name`."""

    path: Path
    kind: str  # histojax, trident, clam, stamp, histobistro or plain
    name: str
    tiles: int
    width: int
    dtype: np.dtype
    geometry: Geometry = Geometry()
    origin: Origin = Origin()
    classes: tuple[str, ...] = ()
    group_kind: str = ""  # what groups are: patient, slide, sample, group
    tokens: tuple[int, int] | None = None  # (P, D) of its patch tokens, if it has any
    grid: tuple[int, int] | None = None  # (rows, columns) of the patch tokens
    skipped: int | None = None  # tiles that could not be read; None: not stated
    rejected: int | None = None  # places that became no tile; None: not stated


@dataclass(frozen=True)
class StoredFeatures:
    """A feature file with its arrays, rows in the order of the file.

    Args:
        header: everything else.
        features: (n, d) float32; float64 where a file has that, so that nothing is rounded.
        coords: (n, 2) int64, x and y of the upper left corner in level-0 pixels; None if they cannot be had.
        stored_coords: (n, 2) float64, x and y in `unit`, whatever that is; None without any.
        unit: of `stored_coords`: "level-0 px", "um", "px at 1 mpp".
        scenes: (n,) int64, the scene of the slide that a tile lies in; None where files have one image.
        names: (n,) str of the tiles, or None.
        labels: (n,) int64, numbers of `header.classes`, -1 unlabelled; None without labels.
        groups: (n,) str, patient or slide of each tile, "" where unknown; None without any.
        augmented: (k, n, d) features of k changed copies of each tile, or None.
    """

    header: Header
    features: np.ndarray
    coords: np.ndarray | None = None
    stored_coords: np.ndarray | None = None
    unit: str = ""
    scenes: np.ndarray | None = None
    names: np.ndarray | None = None
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    augmented: np.ndarray | None = None

    @property
    def geometry(self) -> Geometry:
        """Where the tiles lie and how large they are."""
        return self.header.geometry

    @property
    def origin(self) -> Origin:
        """Who made the features, and of what."""
        return self.header.origin


_MUST_AGREE: tuple[tuple[str, Callable[[Header], Any], Callable[[Header], str]], ...] = (  # what, value, as shown
    ("encoders", lambda h: _one_spelling(h.origin.encoder), lambda h: h.origin.encoder),
    (
        "weights",
        lambda h: h.origin.weights_sha256,
        lambda h: f"{h.origin.weights_sha256} ({h.origin.weights or h.origin.encoder})",
    ),
    ("preprocessing", lambda h: h.origin.preprocess_sha256, lambda h: h.origin.preprocess_sha256),
    ("widths", lambda h: h.width, lambda h: f"{h.width} numbers a tile"),
)
_MAY_DIFFER: tuple[tuple[str, Callable[[Header], str]], ...] = (
    ("arithmetic", lambda h: h.origin.compute_dtype),
    ("stain normalisation", lambda h: h.origin.stain),
    ("where tiles were read from", lambda h: h.origin.read_from),
    ("tile size", lambda h: f"{h.geometry.tile_px} px" if h.geometry.tile_px else ""),
    ("resolution", lambda h: "" if h.geometry.mpp is None else f"{h.geometry.mpp:.2g} mpp"),  # 0.998 and 1 are one
)


def check_mixable(headers: Sequence[Header]) -> list[str]:
    """Sentences on what could not be compared; raises UserError for files whose features must not be mixed.

    Features of one encoder, weights and preprocessing belong together. What a file does not say is not taken to be
    equal: the sentences name it, for the user to know better.
    """
    unsaid: dict[tuple[Path, ...], list[str]] = {}  # files: what they do not say
    for what, value, shown in _MUST_AGREE:
        known = [header for header in headers if value(header)]
        for header in known:
            if value(header) != value(known[0]):
                raise UserError(
                    f"features of different {what} are not mixed: {known[0].path} has {shown(known[0])}, {header.path} "
                    f"has {shown(header)}; take files of one encoder, or extract one of the two anew"
                )
        unknown = tuple(header.path for header in headers if not value(header))
        if unknown and len(headers) > 1:
            unsaid.setdefault(unknown, []).append(what)
    return [_unknown(", ".join(whats), files, headers) for files, whats in unsaid.items()] + _differing(headers)


def _unknown(what: str, files: Sequence[Path], headers: Sequence[Header]) -> str:
    makers = sorted({h.origin.producer or "an unknown program" for h in headers if h.path in set(files)})
    return (
        f"{what}: {len(files)} of {len(headers)} files do not say ({', '.join(makers)}; the first: {files[0]}); "
        "whether they belong together cannot be checked"
    )


def _differing(headers: Sequence[Header]) -> list[str]:
    """Sentences on differences that change features a little, or that may be wanted."""
    notes = []
    for what, value in _MAY_DIFFER:
        found: dict[str, Path] = {}
        for header in headers:
            if value(header):
                found.setdefault(value(header), header.path)
        if len(found) > 1:
            pairs = ", ".join(f"{shown} in {path}" for shown, path in list(found.items())[:3])
            notes.append(f"{what} differs: {pairs}")
    return notes


def _one_spelling(encoder: str) -> str:
    """TRIDENT's, timm's and our name of one encoder are the same."""
    if not encoder:
        return ""
    from histojax.zoo.table import find, is_known, spelling  # imports jax, which no header needs

    return find(encoder).name if is_known(encoder) else spelling(encoder)


def geometry_text(geometry: Geometry) -> str:
    """For people: 256 px at 1 mpp."""
    size = f"{geometry.tile_px} px" if geometry.tile_px else "tiles of unknown size"
    if geometry.mpp is not None:
        return f"{size} at {geometry.mpp:g} mpp"
    return f"{size} at {geometry.magnification:g}x" if geometry.magnification else size
