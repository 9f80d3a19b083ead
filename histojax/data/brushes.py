"""What synthetic tissue is drawn with: the canvas, nuclei, point grids, smooth noise, fibres.

Every function takes its random numbers from the canvas's own generator, and all sizes are in micrometres of the
patient's tissue unless a name says pixels, so a tile of more pixels shows the same field finer.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np

BANK_PX = 512  # side of the periodic noise table that fibres and grain are looked up in
GRAIN_PX = 9.0  # about the width of its grains: wide enough that a lookup needs no interpolation


@dataclasses.dataclass(frozen=True)
class Patient:
    """How one synthetic patient's slides look: stain vectors (rows h, e) times strength, glass, structure size."""

    stains: np.ndarray  # (2, 3) float32, optical density per unit of concentration
    glass: np.ndarray  # (3,) float32, RGB of light through empty glass
    scale: float  # size of cells and fibres, 1 is usual
    coarseness: float  # size of the fibres and grain alone


@dataclasses.dataclass
class Canvas:
    """One tile being drawn: h, e (P, P) float32 stain concentrations."""

    px: int
    um: float  # pixels per micrometre of this patient's tissue
    patient: Patient
    rng: np.random.Generator
    h: np.ndarray
    e: np.ndarray


def open_gaps(c: Canvas, height: np.ndarray, sharpness: float) -> None:
    """Empties both stains where `height` (P, P) is above 0."""
    left = 1 / (1 + np.exp((height * sharpness * 3).clip(-30, 30)))
    c.e *= left
    c.h *= left


def nuclei(c: Canvas, spots: np.ndarray, length, width, dark, angle=0.0, rim: float = 0.0) -> None:
    """Stamps ellipses of `length` x `width` micrometres at `spots` (n, 2) y, x; the darker one wins an overlap.

    All but `spots` and `rim` (share of darkness that sits at the membrane) may be scalars or (n,).
    """
    if not len(spots):
        return
    a, b, turn, ink = (np.broadcast_to(np.asarray(v, "f4"), len(spots)) for v in (length, width, angle, dark))
    a, b = a * (c.um / 2), b * (c.um / 2)
    half = int(np.ceil(max(a.max(), b.max()))) + 1
    steps = np.arange(-half, half + 1)
    corner = np.floor(spots).astype(np.int64)
    frac = (spots - corner).astype("f4")
    dy = steps[None, :, None] - frac[:, 0, None, None]  # (n, w, 1)
    dx = steps[None, None, :] - frac[:, 1, None, None]  # (n, 1, w)
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    a, b = a[:, None, None], b[:, None, None]
    r = np.sqrt(((dx * cos + dy * sin) / a) ** 2 + ((dy * cos - dx * sin) / b) ** 2)
    cover = ((1 - r) * np.sqrt(a * b) + 0.5).clip(0, 1)  # about one pixel of soft border
    value = ink[:, None, None] * cover * (1 - rim + rim * np.minimum(r, 1) ** 2)
    y = corner[:, 0, None, None] + steps[None, :, None]
    x = corner[:, 1, None, None] + steps[None, None, :]
    inside = (cover > 0) & (y >= 0) & (y < c.px) & (x >= 0) & (x < c.px)
    np.maximum.at(c.h.reshape(-1), (y * c.px + x)[inside], value[inside].astype("f4"))


def jittered(c: Canvas, gap: float, jitter: float) -> np.ndarray:
    """(n, 2) y, x of a hexagonal grid `gap` pixels wide, beyond the tile, each moved by up to `jitter` gaps."""
    rows = np.arange(-1, c.px / (gap * 0.866) + 1.5)
    cols = np.arange(-1, c.px / gap + 1.5)
    y, x = np.meshgrid(rows * 0.866, cols, indexing="ij")
    x = x + 0.5 * (np.arange(len(rows)) % 2)[:, None]
    grid = np.stack([y.ravel(), x.ravel()], 1) + c.rng.uniform(0, 1, 2)
    return (grid + c.rng.uniform(-jitter, jitter, grid.shape)) * gap - 0.5 * gap


def keep(c: Canvas, spots: np.ndarray, where: np.ndarray, share: float) -> np.ndarray:
    """The spots on the tile where `where` (P, P) holds, each kept with probability `share`."""
    y, x = np.floor(spots).astype(np.int64).T
    inside = (y >= 0) & (y < c.px) & (x >= 0) & (x < c.px)
    inside &= where[y.clip(0, c.px - 1), x.clip(0, c.px - 1)]
    return spots[inside & (c.rng.uniform(0, 1, len(spots)) < share)]


def nearest_two(c: Canvas, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P, P) distances to the nearest and the second nearest point, and the number of the nearest."""
    axis = np.arange(c.px, dtype="f4")
    first = np.full((c.px, c.px), np.inf, "f4")
    second = first.copy()
    which = np.zeros((c.px, c.px), np.int64)
    for number, (y, x) in enumerate(points.astype("f4")):
        d = ((axis - y) ** 2)[:, None] + ((axis - x) ** 2)[None, :]
        which[d < first] = number
        np.minimum(second, np.maximum(first, d), out=second)
        np.minimum(first, d, out=first)
    return np.sqrt(first), np.sqrt(second), which


def smooth(c: Canvas, cells: int) -> np.ndarray:
    """(P, P) float32 smooth noise, mean 0 and variance about 1, with `cells` bumps a side."""
    weights = _spline(c.px, cells)
    return weights @ c.rng.standard_normal((weights.shape[1], weights.shape[1]), "f4") @ weights.T * 2.0


def fibres(c: Canvas, angle: float, along: float, across: float, waviness: float) -> np.ndarray:
    """(P, P) float32 strands in direction `angle`, `along` x `across` in size, bent by up to about `waviness`."""
    axis = np.arange(c.px, dtype="f4") / c.um
    y, x = axis[:, None], axis[None, :]
    bend = waviness * smooth(c, 3)
    u = x * np.cos(angle) + y * np.sin(angle) + bend
    v = y * np.cos(angle) - x * np.sin(angle) + bend
    return _from_bank(
        c, v * (GRAIN_PX / (across * c.patient.coarseness)), u * (GRAIN_PX / (along * c.patient.coarseness))
    )


def lookup(c: Canvas, size: float) -> np.ndarray:
    """(P, P) float32 noise, mean 0 and variance 1, with grains of about `size` micrometres."""
    axis = np.arange(c.px, dtype="f4") * np.float32(GRAIN_PX / (size * c.um * c.patient.coarseness))
    return _from_bank(c, axis[:, None], axis[None, :])


def _from_bank(c: Canvas, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    shift = c.rng.integers(0, BANK_PX, 2)
    y = np.floor(rows).astype(np.int64) + shift[0]
    x = np.floor(cols).astype(np.int64) + shift[1]
    return _bank()[y % BANK_PX, x % BANK_PX]


@lru_cache(maxsize=1)
def _bank() -> np.ndarray:
    """(BANK_PX, BANK_PX) float32 periodic noise, mean 0 and variance 1."""
    noise = np.random.default_rng(0).standard_normal((BANK_PX, BANK_PX))
    for axis in (0, 1):
        for width in (1, 1, 2, 2, 3):
            noise = 0.5 * noise + 0.25 * (np.roll(noise, width, axis) + np.roll(noise, -width, axis))
    return (noise / noise.std()).astype("f4")


@lru_cache(maxsize=64)
def _spline(px: int, cells: int) -> np.ndarray:
    """(px, cells + 3) float32 weights of a uniform cubic B-spline."""
    t = np.linspace(0, cells, px, endpoint=False)
    left = np.floor(t).astype(np.int64)
    f = t - left
    basis = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], 1) / 6
    weights = np.zeros((px, cells + 3), "f4")
    np.put_along_axis(weights, left[:, None] + np.arange(4), basis.astype("f4"), 1)
    return weights
