"""Synthetic tissue: procedural, H&E-like tiles of nine classes from synthetic patients. For tests and first steps.

A tile is drawn as two stain concentrations, hematoxylin (nuclei) and eosin (everything else), and turned into
RGB by Beer-Lambert's law, I = I0 exp(-c_h v_h - c_e v_e), with the stain vectors v and strengths of its
patient. Patients also differ in the size of their structures, so what holds for one must be learnt to hold for
another. The shapes imitate a colon at about 112 micrometres a tile; they are not tissue, and no score on them
says anything about one.

Tile i depends on (seed, i) and the tile size only: the same on every call and in every process. Another machine's
arithmetic may round differently, which changes grey levels by one and, rarely, moves a nucleus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from histojax.common.errors import UserError
from histojax.data.brushes import (
    Canvas,
    Patient,
    fibres,
    jittered,
    keep,
    lookup,
    nearest_two,
    nuclei,
    open_gaps,
    smooth,
)
from histojax.data.coded import Coded
from histojax.data.tiles import Facts

FIELD_UM = 112.0  # side of a tile; more pixels show the same field finer
VERSION = 1  # raise it when a tile changes: it is part of the fingerprint

# Hematoxylin and eosin directions in optical density, as usual after Macenko et al. 2009 (RGB order)
HEMATOXYLIN = np.array([0.563, 0.720, 0.406])
EOSIN = np.array([0.216, 0.801, 0.558])


class SyntheticTissue:
    """A Source of `n` synthetic tiles of `tile_px`. Classes and patients take turns: every prefix is balanced."""

    def __init__(
        self, n: int, tile_px: int = 128, classes: Sequence[str] | None = None, patients: int = 8, seed: int = 0
    ):
        wanted = tuple(sorted(classes or DRAW))
        if set(wanted) - set(DRAW):
            unknown = ", ".join(sorted(set(wanted) - set(DRAW)))
            raise UserError(f"synthetic: no class {unknown}; there are {', '.join(DRAW)}")
        if n < 1 or tile_px < 16 or patients < 1:
            raise UserError(f"synthetic: n={n}, patients={patients} must be 1 or more and tile_px={tile_px} 16 or more")
        self.classes, self.tile_px, self.seed, self.patients = wanted, tile_px, seed, patients
        number = np.arange(n)
        self.labels = (number % len(wanted)).astype(np.int32)
        self._patient = (number // len(wanted)) % patients
        self.facts = Facts(group_kind="patient")
        self.groups = Coded([f"synthetic-patient-{i}" for i in range(patients)], self._patient)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """E.g. synthetic/seed0/000012-tumour."""
        return f"synthetic/seed{self.seed}/{index:06d}-{self.classes[self.labels[index]]}"

    def read(self, index: int) -> np.ndarray:
        """(tile_px, tile_px, 3) uint8."""
        patient = make_patient(self.seed, int(self._patient[index]))
        return draw_tile(self.classes[self.labels[index]], self.tile_px, patient, _rng(self.seed, 1, int(index)))

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the tiles."""
        facts = (VERSION, len(self), self.tile_px, self.classes, self.patients, self.seed)
        return hashlib.sha256(repr(facts).encode()).hexdigest()


@lru_cache(maxsize=1024)
def make_patient(seed: int, number: int) -> Patient:
    """The look of a patient's slides, drawn from (seed, number)."""
    rng = _rng(seed, 0, number)
    vectors = np.stack([HEMATOXYLIN, EOSIN]) * np.exp(rng.normal(0, 0.14, (2, 3)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = np.exp(rng.uniform(np.log([0.55, 0.4]), np.log([1.5, 1.6])))[:, None]
    glass = rng.uniform(228, 250) + rng.uniform(-6, 6, 3)
    return Patient(
        stains=(vectors * strength).astype(np.float32),
        glass=glass.clip(0, 255).astype(np.float32),
        scale=float(rng.uniform(0.82, 1.25)),
        coarseness=float(rng.uniform(0.75, 1.35)),
    )


def draw_tile(kind: str, tile_px: int, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """(tile_px, tile_px, 3) uint8 of the class `kind`."""
    shape = (tile_px, tile_px)
    canvas = Canvas(
        tile_px, tile_px / FIELD_UM * patient.scale, patient, rng, np.zeros(shape, "f4"), np.zeros(shape, "f4")
    )
    DRAW[kind](canvas)
    thickness = np.exp(0.12 * smooth(canvas, 2) + rng.normal(0, 0.22))[..., None]  # of the cut, over the tile
    uptake = np.exp(rng.normal(0, (0.22, 0.36))).astype("f4")  # of either stain, slide by slide
    grain = 0.05 * lookup(canvas, 1.3)
    density = np.stack([canvas.h * (1 + 2 * grain), canvas.e * (1 + grain)], -1).clip(0) * thickness * uptake
    light = patient.glass * np.exp(-density @ patient.stains) + rng.standard_normal((*shape, 1), "f4") * 2
    return light.clip(0, 255).astype(np.uint8)


def adipose(c: Canvas) -> None:
    """Empty round cells behind thin pink walls, a flat nucleus here and there."""
    gap = c.rng.uniform(26, 44) * c.um
    first, second, _ = nearest_two(c, jittered(c, gap, 0.32))
    wall = np.exp(-(((second - first) / (c.rng.uniform(1.6, 3.0) * c.um)) ** 2))
    c.e += 0.03 + c.rng.uniform(0.5, 0.9) * wall
    c.h += 0.05 * wall
    on_wall = keep(c, jittered(c, 13 * c.um, 0.5), wall > 0.75, c.rng.uniform(0.1, 0.4))
    nuclei(c, on_wall, 7, 2.6, 0.9, angle=c.rng.uniform(0, np.pi, len(on_wall)))


def background(c: Canvas) -> None:
    """Empty glass with a trace of stain, sometimes dust."""
    c.e += (0.05 + 0.03 * smooth(c, 3)).clip(0) * c.rng.uniform(0.2, 1.6)
    c.h += 0.02 * c.rng.uniform(0, 1)
    dust = c.rng.uniform(0, c.px, (c.rng.poisson(1.5), 2))
    nuclei(c, dust, 2.2, 1.4, c.rng.uniform(0.2, 0.7))


def debris(c: Canvas) -> None:
    """Necrosis: granular pink without intact cells, nuclear dust in drifts."""
    cloud = smooth(c, 5)
    c.e += (0.5 + 0.16 * cloud + 0.2 * lookup(c, 0.8)).clip(0.02) * c.rng.uniform(0.75, 1.25)
    c.h += (0.2 + 0.12 * smooth(c, 7) + 0.1 * lookup(c, 0.7)).clip(0)
    drift = keep(c, jittered(c, 3.4 * c.um, 0.5), cloud > c.rng.uniform(-0.4, 0.5), 0.6)
    nuclei(c, drift, c.rng.gamma(6, 0.34, len(drift)), 1.7, c.rng.uniform(0.4, 1.2, len(drift)))
    ghosts = keep(c, jittered(c, 12 * c.um, 0.5), cloud < 0.6, 0.35)
    nuclei(c, ghosts, 7.5, 6, 0.42)
    open_gaps(c, smooth(c, 6) - c.rng.uniform(1.1, 1.9), 3.0)


def lymphocytes(c: Canvas) -> None:
    """A sheet of small, round, dark nuclei with hardly any cytoplasm."""
    c.e += (0.28 + 0.08 * smooth(c, 6)).clip(0.05)
    c.h += (0.16 + 0.06 * smooth(c, 8)).clip(0)
    crowd = smooth(c, 4) > -c.rng.uniform(0.6, 2.0)
    spots = keep(c, jittered(c, c.rng.uniform(6.0, 7.4) * c.um, 0.34), crowd, 0.93)
    nuclei(c, spots, c.rng.normal(5.8, 0.5, len(spots)), 5.2, c.rng.uniform(1.0, 1.45, len(spots)))
    pale = keep(c, jittered(c, 17 * c.um, 0.5), crowd, 0.3)
    nuclei(c, pale, 9.5, 7.5, 0.55, rim=0.5)


def mucosa(c: Canvas) -> None:
    """Round glands: lumen, pale goblet cells, a regular ring of nuclei at the base; loose stroma between."""
    stroma_bed(c, 0.42, 0.5)
    gap = c.rng.uniform(44, 58) * c.um
    centres = jittered(c, gap, 0.12)
    first, _, which = nearest_two(c, centres)
    radius = (gap * c.rng.uniform(0.40, 0.47, len(centres)))[which] * (1 + 0.07 * smooth(c, 5))
    d = first / radius
    inside = d < 1
    lumen = d < c.rng.uniform(0.16, 0.32)
    goblet = inside & (np.abs(d - 0.55) < 0.2) & (lookup(c, 2.6) > c.rng.uniform(-0.6, 0.3))
    c.e[inside] = (0.5 + 0.12 * lookup(c, 2.0)[inside]).clip(0.1)
    c.h[inside] = 0.14
    c.e[goblet], c.h[goblet] = 0.16, 0.16
    c.e[lumen], c.h[lumen] = 0.05, 0.03
    loose = keep(c, jittered(c, 8 * c.um, 0.5), d > 1.1, 0.6)
    nuclei(c, loose, 5.6, 4.2, 1.15, angle=c.rng.uniform(0, np.pi, len(loose)))
    ring_nuclei(c, centres, radius, which)


def mucus(c: Canvas) -> None:
    """Pale bluish smears in streaks and whorls, nearly no cells."""
    streak = fibres(c, c.rng.uniform(0, np.pi), along=26, across=3.2, waviness=9.0)
    body = (0.5 + 0.5 * smooth(c, 3)).clip(0.08)
    c.h += ((0.2 + 0.16 * streak) * body).clip(0.01)
    c.e += ((0.15 + 0.10 * streak) * body).clip(0.01)
    spots = keep(c, jittered(c, 20 * c.um, 0.5), body > 0.4, c.rng.uniform(0.0, 0.4))
    nuclei(c, spots, 6, 4.2, 0.95, angle=c.rng.uniform(0, np.pi, len(spots)))


def muscle(c: Canvas) -> None:
    """Parallel bundles, strongly pink, long thin nuclei along them."""
    angle = c.rng.uniform(0, np.pi)
    strand = fibres(c, angle, along=46, across=3.6, waviness=2.2)
    c.e += (0.72 + 0.2 * strand).clip(0.05) * c.rng.uniform(0.8, 1.2)
    c.h += 0.1 + 0.03 * strand
    open_gaps(c, strand + 0.6 * smooth(c, 3) - c.rng.uniform(1.7, 2.6), 2.0)
    spots = keep(c, jittered(c, c.rng.uniform(10, 14) * c.um, 0.5), c.e > 0.4, 0.7)
    tilt = angle + c.rng.normal(0, 0.1, len(spots))
    nuclei(c, spots, c.rng.normal(12, 2, len(spots)).clip(6), 2.9, 0.95, angle=tilt)


def stroma(c: Canvas) -> None:
    """Wavy collagen with clefts, sparse spindle cells, a few lymphocytes."""
    stroma_bed(c, c.rng.uniform(0.42, 0.62), 1.0)
    few = keep(c, jittered(c, 15 * c.um, 0.5), c.e > 0.2, c.rng.uniform(0.05, 0.35))
    nuclei(c, few, 5.6, 5.2, 1.15)


def tumour(c: Canvas) -> None:
    """Crowded, irregular nests: large nuclei of unequal size and darkness, ragged lumina, reacting stroma."""
    stroma_bed(c, 0.45, 0.6)
    field = smooth(c, 4) + 0.25 * smooth(c, 9)
    edge = c.rng.uniform(-0.9, 0.1)
    nest = field > edge
    lumen = field > edge + c.rng.uniform(1.3, 2.2)
    c.e[nest] = (0.46 + 0.14 * lookup(c, 1.6)[nest]).clip(0.1)
    c.h[nest] = (0.26 + 0.08 * lookup(c, 2.2)[nest]).clip(0.05)
    c.e[lumen], c.h[lumen] = 0.06, 0.03
    spots = keep(c, jittered(c, c.rng.uniform(7.6, 9.6) * c.um, 0.42), nest & ~lumen, 0.93)
    long = c.rng.gamma(22, 9.6 / 22, len(spots)).clip(5.5, 16)
    wide = long * c.rng.uniform(0.55, 0.9, len(spots))
    dark = c.rng.uniform(0.65, 1.3, len(spots))
    nuclei(c, spots, long, wide, dark, angle=c.rng.uniform(0, np.pi, len(spots)), rim=0.45)


def stroma_bed(c: Canvas, eosin: float, cells: float) -> None:
    """Collagen over the whole tile with `cells` times the usual number of spindle nuclei."""
    angle = c.rng.uniform(0, np.pi)
    strand = fibres(c, angle, along=22, across=3.0, waviness=11.0)
    c.e += (eosin + 0.26 * strand).clip(0.04)
    c.h += (0.07 + 0.03 * strand).clip(0)
    open_gaps(c, strand + 0.7 * smooth(c, 5) - c.rng.uniform(1.0, 1.7), 2.5)
    spots = keep(c, jittered(c, 12 * c.um, 0.5), c.e > 0.15, 0.6 * cells)
    tilt = angle + c.rng.normal(0, 0.4, len(spots))
    nuclei(c, spots, c.rng.normal(9, 1.5, len(spots)).clip(5), 3.0, 1.0, angle=tilt)


def ring_nuclei(c: Canvas, centres: np.ndarray, radius: np.ndarray, which: np.ndarray) -> None:
    """Nuclei along the inner border of each gland, pointing at its centre."""
    spacing = 5.6 * c.um
    for gland, (y, x) in enumerate(centres):
        own = radius[which == gland]
        if not own.size:
            continue
        r = 0.86 * own.mean()
        count = max(int(2 * np.pi * r / spacing), 6)
        turn = np.linspace(0, 2 * np.pi, count, endpoint=False) + c.rng.normal(0, 0.25 / np.sqrt(count), count)
        reach = r * c.rng.normal(1, 0.03, count)
        spots = np.stack([y + reach * np.sin(turn), x + reach * np.cos(turn)], 1)
        nuclei(c, spots, c.rng.normal(6.8, 0.5, count), 4.0, c.rng.uniform(0.9, 1.15, count), angle=turn)


DRAW = {f.__name__: f for f in (adipose, background, debris, lymphocytes, mucosa, mucus, muscle, stroma, tumour)}
CLASSES = tuple(DRAW)


def _rng(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, number)))
