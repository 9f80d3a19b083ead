"""Leaks: patients, slides and copies of tiles that a test shares with what it must not know.

Told before any score, and refused unless allowed. A test is compared with the training part, with the tiles of the
self-supervised training (no label was used there, but the encoder has seen them), and with the tiles that chose its
checkpoint. Names are compared as `histojax audit` does: without case, suffix and UUID, by TCGA's and CPTAC's barcodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.data.audit import MIN_CONTRAST, PATIENT, SLIDE, plain_unit
from histojax.data.copies import IDENTICAL, NEAR, TURNED, both_distances, find_copies
from histojax.data.hashes import SAME
from histojax.data.patients import patient_of

FEATURES = "feature-identical tile"
SHOWN, KEPT = 3, 20  # names in a sentence, in results.json
DISTINCT = 0.02  # parts of the spread of features: what lies further apart is no copy, whatever float16 makes of it
FAR = 64  # spreads
COMMON = 2  # of more tiles of one part with one feature vector none is taken for a copy: they are blank
SEEN = {  # what published encoders were trained on, where a test may well be from: {collection: encoders}
    "TCGA": (
        *("ctranspath", "chief_ctranspath", "retccl", "phikon", "phikon_v2", "dinov2_vits14_tcga"),
        *("dinov2_vitg14_tcga", "midnight_12k", "openmidnight", "gpfm", "mstar"),
    ),
    "CPTAC": ("phikon_v2", "gpfm"),
    "GTEx": ("phikon_v2", "uni", "uni2_h"),
}
COLLECTIONS = {"TCGA": r"TCGA-.*", "CPTAC": r"C3[LN]-.*", "GTEx": r"GTEX-.*"}


@dataclass(frozen=True)
class Cases:
    """What a part is made of; whatever is not known is empty.

    Args:
        name: in words: "training", "test", "CPTAC", "tiles of runs/crc".
        patients, slides: their names, as often as one likes.
        hashes: (n,) data.hashes.ROW of the tiles, None where no pixels are at hand.
        features: (n, d) of the tiles; without pixels, copies are known by them.
        tiles: (n,) what the rows of both are called.
    """

    name: str
    patients: Sequence[str] = ()
    slides: Sequence[str] = ()
    hashes: np.ndarray | None = None
    features: np.ndarray | None = None
    tiles: Sequence[str] | np.ndarray = ()


@dataclass(frozen=True)
class Shared:
    """What two parts share: `kind` (patient, slide, identical tile ...), how many, and the first of their names."""

    kind: str
    part: str
    other: str
    count: int
    names: tuple[str, ...]

    def sentence(self) -> str:
        """In words."""
        names = ", ".join(self.names[:SHOWN]) + (", ..." if self.count > SHOWN else "")
        what = f"{self.count} {self.kind}{'s' * (self.count != 1)}"
        numbers = self.kind == PATIENT and all(re.fullmatch(r"\d{1,5}", name) for name in self.names)
        doubt = "; plain numbers, which may be of other people" if numbers else ""
        return f"{self.other} shares {what} with {self.part} ({names}{doubt})"


@dataclass(frozen=True)
class Leaks:
    """What was found; `unchecked` are sentences on what could not be compared, and on what is no leak but near one."""

    shared: tuple[Shared, ...]
    unchecked: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """All of it, in words."""
        return [one.sentence() for one in self.shared] + list(self.unchecked)

    def facts(self, allowed: bool = False) -> dict[str, Any]:
        """As JSON, for Results.facts["leakage"]; keys patients, slides, tiles (the first names) only where shared."""
        found: dict[str, Any] = {"sentences": self.sentences()}
        for one in self.shared:
            names = found.setdefault(f"{one.kind if one.kind in (PATIENT, SLIDE) else 'tile'}s", [])
            names += [name for name in one.names if name not in names]
        counts = [{"kind": one.kind, "part": one.part, "other": one.other, "count": one.count} for one in self.shared]
        return found | ({"shared": counts, "allowed": allowed} if counts else {})


def check_leaks(
    train: Cases | None, tests: Sequence[Cases], ssl: Sequence[Cases] = (), encoder: str = "", most: int = SAME
) -> Leaks:
    """What the tests share with training and with what the encoder was made of.

    Args:
        train: what classifiers are fitted on; None where folds of one cohort take turns, which is kept whole by them.
        tests: test part or cohort, external cohorts.
        ssl: the self-supervised training, the tiles that chose its checkpoint (`leakage_sources.ssl_cases`).
        encoder: a published encoder's name: what it is known to have seen is said.
        most: signs of a tile's hash that may differ in a copy, see data.hashes.
    """
    shared: list[Shared] = []
    said: list[str] = []
    for test in tests:
        for other in [train, *ssl] if train is not None else ssl:
            found, unknown = _pair(other, test, most)
            shared += found
            said += unknown
        said += _seen(test, encoder)
    return Leaks(tuple(shared), tuple(dict.fromkeys(said)))


def refuse_leaks(leaks: Leaks, allowed: bool, flag: str = "--allow-leaks") -> list[str]:
    """The sentences to be told before any score; raises UserError for leaks that are not allowed."""
    if leaks.shared and not allowed:
        found = "; ".join(one.sentence() for one in leaks.shared)
        raise UserError(f"leakage: {found}. Leave them out, or report the scores with this fact: {flag}")
    return leaks.sentences()


def _pair(other: Cases, test: Cases, most: int) -> tuple[list[Shared], list[str]]:
    """(what both have, what could not be compared)."""
    shared, unknown = [], []
    for kind, mine, theirs in ((PATIENT, _patients(test), _patients(other)), (SLIDE, test.slides, other.slides)):
        if any(mine) and any(theirs):
            shared += _names_of_both(kind, mine, theirs, other, test)
        elif kind == PATIENT:
            whose = " and ".join(part.name for part, names in ((test, mine), (other, theirs)) if not any(names))
            unknown.append(
                f"patients of {whose} are not known: whether {test.name} shares any with {other.name} was not checked"
            )
    if test.hashes is not None and other.hashes is not None:
        shared += _copies(other, test, most)
    elif _comparable(test.features, other.features):
        shared += _same_features(other, test)
    else:
        unknown.append(
            f"copies of tiles of {test.name} in {other.name} were not looked for (no pixels at hand): histojax audit"
        )
    return shared, unknown


def _patients(part: Cases) -> list[str]:
    """Names of the patients; where there are none, those that barcodes of slides tell."""
    if any(part.patients):
        return list(part.patients)
    return [patient_of(name) for name in dict.fromkeys(part.slides)]


def _names_of_both(kind: str, mine: Iterable[str], theirs: Iterable[str], other: Cases, test: Cases) -> list[Shared]:
    known = {plain_unit(name, kind) for name in set(theirs) if name}
    both = {plain: name for name in sorted(set(mine)) if name and (plain := plain_unit(name, kind)) in known}
    names = tuple(both.values())
    return [Shared(kind, other.name, test.name, len(names), names[:KEPT])] if names else []


def _copies(other: Cases, test: Cases, most: int) -> list[Shared]:
    """Tiles of the test with a copy in the other part; of blank tiles none is one."""
    assert other.hashes is not None and test.hashes is not None
    rows = np.concatenate([other.hashes, test.hashes])
    usable = ~rows["bad"] & (rows["contrast"] >= MIN_CONTRAST)
    copies = find_copies(rows, usable, most)
    theirs, mine = np.split(copies.cluster, [len(other.hashes)])
    first = {int(cluster): i for i, cluster in reversed(list(enumerate(theirs.tolist()))) if cluster >= 0}
    pixels = set(copies.pixels[: len(theirs)].tolist())
    found: dict[str, list[str]] = {}
    for i, cluster in enumerate(mine.tolist()):
        if cluster >= 0 and cluster in first:
            place = len(theirs) + i
            plain, turned = (int(d[0]) for d in both_distances(rows[[place]], rows[[first[cluster]]]))
            same = int(copies.pixels[place]) in pixels
            kind = IDENTICAL if same else TURNED if turned < plain else NEAR
            found.setdefault(f"{kind} tile", []).append(_tile(test, i))
    return [Shared(kind, other.name, test.name, len(names), tuple(names[:KEPT])) for kind, names in found.items()]


def _same_features(other: Cases, test: Cases) -> list[Shared]:
    """Tiles of the test whose features, to three digits, are those of a tile of the other part."""
    theirs, mine = (np.asarray(part.features, np.float32) for part in (other, test))
    # features far from 0 for their spread are all alike in float16, unless they are centred
    middle, spread = _middle_and_spread(theirs)
    centre = middle if np.linalg.norm(middle.astype(np.float64)) > FAR * spread else np.float32(0)
    theirs, mine = theirs - centre, mine - centre
    # times a power of two float16 neither runs over nor loses small ones, and rounds as where features are stored
    shift = 15 - int(np.frexp(max(np.abs(one).max(initial=0) for one in (theirs, mine)))[1])
    keys = [_keys(one, shift) for one in (theirs, mine)]
    counts = [dict(zip(*(x.tolist() for x in np.unique(one, return_counts=True)))) for one in keys]
    common = {key for count in counts for key, times in count.items() if times > COMMON}
    both = (counts[0].keys() & counts[1].keys()) - common
    place = {key: i for i, key in enumerate(keys[0].tolist()) if key in both}
    near = DISTINCT * (spread + _middle_and_spread(mine)[1])
    rows = [
        i
        for i, key in enumerate(keys[1].tolist())
        if key in both and np.linalg.norm(mine[i].astype(np.float64) - theirs[place[key]]) <= near
    ]
    names = tuple(_tile(test, i) for i in rows[:KEPT])
    return [Shared(FEATURES, other.name, test.name, len(rows), names)] if rows else []


def _middle_and_spread(features: np.ndarray) -> tuple[np.ndarray, float]:
    """(mean (d,) float32, root mean square distance from it) of a few thousand rows."""
    some = features[:: len(features) // 2000 + 1].astype(np.float64)
    return some.mean(axis=0).astype(np.float32), float(np.linalg.norm(some.std(axis=0)))


def _keys(features: np.ndarray, shift: int) -> np.ndarray:
    """(n,) bytes: the same for equal features, times 2**shift, in float16, which most arithmetic agrees on."""
    rounded = np.ascontiguousarray(np.ldexp(features, shift).astype(np.float16)) + np.float16(0)  # -0 becomes 0
    return rounded.view(f"V{rounded.shape[1] * 2}").ravel()


def _comparable(mine: np.ndarray | None, theirs: np.ndarray | None) -> bool:
    return mine is not None and theirs is not None and mine.shape[1] == theirs.shape[1] and len(mine) > 0 < len(theirs)


def _tile(part: Cases, row: int) -> str:
    return str(part.tiles[row]) if row < len(part.tiles) else f"row {row}"


def _seen(test: Cases, encoder: str) -> list[str]:
    """A sentence where the encoder is known to have seen the collection that patients of the test are from."""
    patients = {patient_of(name) for name in {*test.patients, *test.slides} if name}
    found = []
    for collection, pattern in COLLECTIONS.items():
        count = sum(bool(re.fullmatch(pattern, name)) for name in patients)
        if count and encoder in SEEN[collection]:
            found.append(
                f"{encoder} was trained on slides of {collection}: it may have seen {count} patients of {test.name}"
            )
    return found
