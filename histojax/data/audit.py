"""What is wrong with sets of tiles: copies, blank and unreadable tiles, and what two sets share that they must not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from histojax.data.coded import Coded, joined
from histojax.data.copies import IDENTICAL, NEAR, TURNED, Copies, both_distances, find_copies
from histojax.data.formats import suffix_of
from histojax.data.hashes import SAME
from histojax.data.patients import patient_of
from histojax.data.slide_folder import SLIDE_SUFFIXES
from histojax.data.tiles import Joined, Source

MIN_CONTRAST = 4.0  # standard deviation of green below which a tile is blank, as for tiles that are cut
BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}-\d{2}[A-Z]-\d{2}-[A-Z]{2}[A-Z0-9]+", re.IGNORECASE)
PATIENT, SLIDE = "patient", "slide"
UNREADABLE, BLANK, COPY = "unreadable", "blank", "copy of a tile that is kept"


@dataclass(frozen=True)
class TileSet:
    """One of the sets: what names it, its tiles, their hashes, why some cannot be read; whether it judges others."""

    spec: str
    source: Source
    rows: np.ndarray
    bad: dict[int, str]
    judges: bool = False

    @cached_property
    def units(self) -> dict[str, Coded]:
        """{patient, slide: of each tile, "" where unknown}; a kind that is not known of any tile is missing."""
        return units_of(self.source)


@dataclass(frozen=True)
class Shared:
    """A patient or slide of two sets, or a tile of one with a copy in the other; `what` is how a set calls it."""

    kind: str
    set: str
    what: str
    tiles: int
    other_set: str
    other_what: str
    other_tiles: int
    distance: int = 0


@dataclass
class Findings:
    """All that was found; tiles are numbered through all sets."""

    sets: Sequence[TileSet]
    rows: np.ndarray
    starts: np.ndarray
    blank: np.ndarray
    bad: np.ndarray
    copies: Copies
    shared: list[Shared] = field(default_factory=list)

    def locate(self, number: int) -> tuple[TileSet, int]:
        """(set, number within it) of a tile."""
        place = int(np.searchsorted(self.starts, number, "right")) - 1
        return self.sets[place], number - int(self.starts[place])

    def name(self, number: int) -> str:
        """What a tile is called."""
        tiles, inner = self.locate(number)
        return tiles.source.name(inner)

    def of(self, place: int) -> slice:
        """The numbers of a set's tiles."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.blank.any() or self.bad.any() or self.shared or (self.copies.cluster >= 0).any())


def audit(sets: Sequence[TileSet], most: int = SAME, min_contrast: float = MIN_CONTRAST) -> Findings:
    """What is wrong with the sets. Those that judge others are compared with these, else all with each other."""
    rows = np.concatenate([tiles.rows for tiles in sets])
    bad = rows["bad"]
    blank = ~bad & (rows["contrast"] < min_contrast)
    copies = find_copies(rows, ~bad & ~blank, most)
    found = Findings(sets, rows, np.cumsum([0, *(len(t.rows) for t in sets)]), blank, bad, copies)
    for one, other in pairs_of(sets):
        found.shared += _shared_units(sets[one], sets[other]) + _shared_tiles(found, one, other)
    return found


def pairs_of(sets: Sequence[TileSet]) -> list[tuple[int, int]]:
    """Which sets must share nothing."""
    judges = [i for i, tiles in enumerate(sets) if tiles.judges]
    others = [i for i, tiles in enumerate(sets) if not tiles.judges]
    if judges:
        return [(i, j) for i in others for j in judges]
    return [(i, j) for i in others for j in others if i < j]


def kept(found: Findings) -> tuple[np.ndarray, Counter[str]]:
    """((n,) bool: the tiles of the sets that are judged that should be trained on, how many not and why).

    Of copies the first is kept; a tile of a judging set, its copies, patients and slides never are.
    """
    n = int(found.starts[-1])
    judging = np.zeros(n, bool)
    for place, tiles in enumerate(found.sets):
        judging[found.of(place)] = tiles.judges
    keep, why = ~judging, Counter[str]()

    def drop(which: np.ndarray, reason: str) -> None:
        which = which & keep
        if which.any():
            why[reason] += int(which.sum())
            keep[which] = False

    drop(found.bad, UNREADABLE)
    drop(found.blank, BLANK)
    for kind in (PATIENT, SLIDE):
        drop(_of_shared(found, kind), f"{kind} of the set to judge by")
    cluster = found.copies.cluster
    with_judging = np.zeros(cluster.max(initial=-1) + 2, bool)
    with_judging[cluster[judging]] = True
    with_judging[-1] = False  # of tiles without a copy
    drop(with_judging[cluster], "copy of a tile of the set to judge by")
    candidates = np.flatnonzero(keep & (cluster >= 0))
    _, firsts = np.unique(cluster[candidates], return_index=True)
    copies = np.zeros(n, bool)
    copies[candidates] = True
    copies[candidates[firsts]] = False
    drop(copies, COPY)
    return keep, why


def _of_shared(found: Findings, kind: str) -> np.ndarray:
    """(n,) bool: the tiles of patients or slides that a judging set has, too."""
    result = np.zeros(int(found.starts[-1]), bool)
    theirs: set[str] = set()
    for tiles in found.sets:
        if tiles.judges and kind in tiles.units:
            theirs |= {plain_unit(name, kind) for name in tiles.units[kind].used()}
    for place, tiles in enumerate(found.sets):
        if kind in tiles.units:
            names = tiles.units[kind]
            hit = np.array([bool(name) and plain_unit(name, kind) in theirs for name in names.table.tolist()], bool)
            result[found.of(place)] = hit[names.numbers]
    return result


def _shared_units(one: TileSet, other: TileSet) -> list[Shared]:
    """Patients and slides of both."""
    found = []
    for kind in (PATIENT, SLIDE):
        if kind in one.units and kind in other.units:
            mine, theirs = _counted(one.units[kind], kind), _counted(other.units[kind], kind)
            for name in sorted(mine.keys() & theirs.keys()):
                found.append(Shared(kind, one.spec, *mine[name], other.spec, *theirs[name]))
    return found


def _counted(names: Coded, kind: str) -> dict[str, tuple[str, int]]:
    """{plain name: (as it is written, tiles)}."""
    counts = np.bincount(names.numbers, minlength=len(names.table))
    found: dict[str, tuple[str, int]] = {}
    for name, count in zip(names.table.tolist(), counts.tolist()):
        if name and count:
            before = found.get(plain_unit(name, kind), (name, 0))
            found[plain_unit(name, kind)] = before[0], before[1] + count
    return found


def _shared_tiles(found: Findings, one: int, other: int) -> list[Shared]:
    """Tiles of the one with a copy in the other, each with the first of those, an identical one if there is one."""
    copies, mine, theirs = found.copies, found.of(one), found.of(other)
    result = []
    members: dict[int, list[int]] = {}
    for number in (np.flatnonzero(copies.cluster[theirs] >= 0) + theirs.start).tolist():
        members.setdefault(int(copies.cluster[number]), []).append(number)
    for number in (np.flatnonzero(copies.cluster[mine] >= 0) + mine.start).tolist():
        near = members.get(int(copies.cluster[number]))
        if near:
            same = next((m for m in near if copies.pixels[m] == copies.pixels[number]), None)
            match = near[0] if same is None else same
            plain, turned = (int(d[0]) for d in both_distances(found.rows[[number]], found.rows[[match]]))
            kind = IDENTICAL if same is not None else TURNED if turned < plain else NEAR
            specs = found.sets[one].spec, found.sets[other].spec
            names = found.name(number), found.name(match)
            result.append(Shared(f"{kind} tile", specs[0], names[0], 1, specs[1], names[1], 1, min(plain, turned)))
    return result


def units_of(source: Source) -> dict[str, Coded]:
    """{patient, slide: of each tile, "" where unknown}, as the source, or barcodes in its names, tell."""
    if isinstance(source, Joined):
        parts = [units_of(part) for part in source.sources]
        blank = [Coded([""], np.zeros(len(part), np.int8)) for part in source.sources]
        kinds = {kind for part in parts for kind in part}
        return {kind: joined([part.get(kind, none) for part, none in zip(parts, blank)]) for kind in sorted(kinds)}
    found: dict[str, Coded] = {}
    inner, chosen = getattr(source, "source", None), getattr(source, "chosen", None)
    if inner is not None and chosen is not None:
        return {kind: names.take(chosen) for kind, names in units_of(inner).items()}
    kind, groups, index = source.facts.group_kind, source.groups, getattr(source, "index", None)
    if groups is not None and kind in (PATIENT, SLIDE):
        found[kind] = groups
    if index is not None and index.slide_names.known().any():
        found[SLIDE] = index.slide_names
    elif SLIDE not in found and isinstance(names := getattr(source, "names", None), list):
        barcodes = [match[0] if (match := BARCODE.search(name)) else "" for name in names]
        found |= {SLIDE: Coded.of(barcodes)} if any(barcodes) else {}
    if PATIENT not in found and SLIDE in found:
        patients = [patient_of(name) for name in found[SLIDE].table.tolist()]
        found |= {PATIENT: Coded(patients, found[SLIDE].numbers)} if any(patients) else {}
    return found


def plain_unit(name: str, kind: str) -> str:
    """A patient or slide without what differs between copies of its name: case, suffix, the UUID of TCGA's files."""
    if kind == PATIENT:
        return patient_of(name) or name.strip().casefold()
    if match := BARCODE.search(name):
        return match[0].upper()
    stem = name.rsplit("/", 1)[-1]
    if suffix_of(stem) in SLIDE_SUFFIXES or suffix_of(stem) in (".tif", ".tiff"):
        stem = stem.rpartition(".")[0]
    return stem.strip().casefold()
