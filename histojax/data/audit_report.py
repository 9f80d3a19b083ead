"""What an audit leaves behind: a summary in words, tables, JSON, a picture to look at, and the list of what is kept."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from histojax.common.files import replacing, write_atomic
from histojax.common.tables import csv_text, write_table
from histojax.data.audit import PATIENT, SLIDE, Findings, TileSet, kept, pairs_of
from histojax.data.copies import IDENTICAL, NEAR, TURNED
from histojax.data.decode import BadTile, fit_tile
from histojax.data.subset import write_subset
from histojax.data.tiles import UNLABELLED, EncodedTiles, Source

PAIR_PX, MOST_PAIRS = 160, 12


def facts(found: Findings) -> dict[str, Any]:
    """Everything in numbers, JSON values."""
    kinds = Counter(found.copies.kind(i) for i in _copies(found))
    sets = []
    for place, tiles in enumerate(found.sets):
        part = found.of(place)
        cluster = found.copies.cluster[part]
        sets.append({
            "set": tiles.spec, "judges": tiles.judges, "tiles": len(tiles.rows),
            "fingerprint": tiles.source.fingerprint(),
            "unreadable": int(found.bad[part].sum()), "blank": int(found.blank[part].sum()),
            "with_copies": int((cluster >= 0).sum()),
            **{f"{kind}s": len(tiles.units[kind].used()) if kind in tiles.units else None for kind in (PATIENT, SLIDE)},
        })  # fmt: skip
    return {
        "sets": sets,
        "copies": {
            "groups": int(found.copies.cluster.max(initial=-1)) + 1,
            **{kind.replace(" ", "_").replace("-", "_"): kinds[kind] for kind in (IDENTICAL, NEAR, TURNED)},
            "with_two_labels": len(_torn(found, _labels_of)),
            "with_two_patients": len(_torn(found, _patients_of)),
            "not_compared_with_all": found.copies.crowded,
        },
        "shared": dict(Counter(one.kind for one in found.shared)),
    }


def summary(found: Findings, known: dict[str, Any]) -> str:
    """The same in words, a line a subject."""
    lines = []
    for one in known["sets"]:
        units = ", ".join(
            f"{kind}s not known" if one[f"{kind}s"] is None else f"{one[f'{kind}s']} {kind}s"
            for kind in (PATIENT, SLIDE)
        )
        role = " (to judge by)" if one["judges"] else ""
        lines.append(f"{one['set']}{role}: {one['tiles']} tiles, {units}")
        lines.append(f"  unreadable {one['unreadable']}, blank {one['blank']}, with copies {one['with_copies']}")
    copies = known["copies"]
    lines.append(
        f"copies: {copies['groups']} groups; beside their first tile {copies['identical']} identical, "
        f"{copies['near_identical']} near-identical, {copies['turned_or_mirrored']} turned or mirrored"
    )
    for key, what in (("with_two_labels", "labels"), ("with_two_patients", "patients")):
        if copies[key]:
            lines.append(f"  in {copies[key]} of the groups the copies have different {what}")
    if copies["not_compared_with_all"]:
        lines.append(
            f"  {copies['not_compared_with_all']} tiles of little structure were not compared with all their like"
        )
    for i, j in pairs_of(found.sets):
        lines.append(_pair_in_words(found, found.sets[i], found.sets[j]))
    return "\n".join(lines)


def _pair_in_words(found: Findings, one: TileSet, other: TileSet) -> str:
    counts = Counter(s.kind for s in found.shared if (s.set, s.other_set) == (one.spec, other.spec))
    kinds = (PATIENT, SLIDE, *(f"{kind} tile" for kind in (IDENTICAL, NEAR, TURNED)))
    parts = []
    for kind in kinds:
        unknown = kind in (PATIENT, SLIDE) and not (kind in one.units and kind in other.units)
        parts.append(f"{kind}s not known of both" if unknown else f"{counts[kind]} {kind}s")
    return f"shared by {one.spec} and {other.spec}: {', '.join(parts)}"


def write_tables(out: Path, found: Findings, known: dict[str, Any]) -> None:
    """audit.json, duplicates.csv, overlap.csv, left_out.csv, pairs.png; those with nothing in them are removed."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "audit.json", json.dumps(known, indent=1) + "\n")
    write_table(
        out / "duplicates.csv",
        ("group", "kind", "distance", "set", "tile", "name", "label", "patient", "slide"),
        _duplicate_rows(found),
    )
    titles = ("kind", "set", "what", "tiles", "other_set", "other_what", "other_tiles", "distance")
    write_table(out / "overlap.csv", titles, ([getattr(one, title) for title in titles] for one in found.shared))
    write_table(out / "left_out.csv", ("set", "tile", "name", "reason"), _left_out_rows(found))
    pairs = _pairs_to_show(found)
    (out / "pairs.png").unlink(missing_ok=True)
    if pairs:
        with replacing(out / "pairs.png") as partial:
            _picture(found, pairs).save(partial, "PNG")


def _duplicate_rows(found: Findings) -> Iterator[Sequence]:
    """The tiles with copies, group by group."""
    copies = found.copies
    numbers = np.flatnonzero(copies.cluster >= 0)
    for number in numbers[np.argsort(copies.cluster[numbers], kind="stable")].tolist():
        tiles, inner = found.locate(number)
        first = copies.first[number] == number
        yield (
            int(copies.cluster[number]),
            "first" if first else copies.kind(number),
            0 if first else int(copies.distance[number]),
            tiles.spec,
            inner,
            tiles.source.name(inner),
            _label(tiles.source, inner),
            *(tiles.units[kind][inner] if kind in tiles.units else "" for kind in (PATIENT, SLIDE)),
        )


def _left_out_rows(found: Findings) -> Iterator[Sequence]:
    for number in np.flatnonzero(found.bad | found.blank).tolist():
        tiles, inner = found.locate(number)
        yield tiles.spec, inner, tiles.source.name(inner), tiles.bad.get(inner, "blank")


def _label(source: Source, index: int) -> str:
    label = source.labels[index]
    return source.classes[label] if label != UNLABELLED else ""


def _copies(found: Findings) -> list[int]:
    """Numbers of the tiles that are not the first of their group."""
    numbers = np.flatnonzero(found.copies.cluster >= 0)
    return numbers[found.copies.first[numbers] != numbers].tolist()


def _torn(found: Findings, value_of: Any) -> list[int]:
    """Groups whose copies have different values, those without one left aside."""
    values: dict[int, set[str]] = {}
    for number in np.flatnonzero(found.copies.cluster >= 0).tolist():
        value = value_of(*found.locate(number))
        if value:
            values.setdefault(int(found.copies.cluster[number]), set()).add(value)
    return [group for group, known in values.items() if len(known) > 1]


def _labels_of(tiles: TileSet, index: int) -> str:
    return _label(tiles.source, index)


def _patients_of(tiles: TileSet, index: int) -> str:
    return str(tiles.units[PATIENT][index]) if PATIENT in tiles.units else ""


def _pairs_to_show(found: Findings) -> list[tuple[int, int]]:
    """(tile, the first of its group), the most doubtful ones first, at most one of a group."""
    numbers = _copies(found)
    doubtful = sorted(numbers, key=lambda i: (-int(found.copies.distance[i]), i))
    chosen: dict[int, int] = {}
    for i in doubtful:
        chosen.setdefault(int(found.copies.cluster[i]), i)
    return [(i, int(found.copies.first[i])) for i in chosen.values()][:MOST_PAIRS]


def _picture(found: Findings, pairs: Sequence[tuple[int, int]]) -> Image.Image:
    """Pairs of tiles side by side, what they are to each other below."""
    wide, high = 2 * PAIR_PX + 16, PAIR_PX + 22
    columns = min(3, len(pairs))
    sheet = Image.new("RGB", (columns * wide, -(-len(pairs) // columns) * high), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (number, first) in enumerate(pairs):
        left, top = place % columns * wide, place // columns * high
        for side, index in enumerate((first, number)):
            tiles, inner = found.locate(index)
            try:
                sheet.paste(
                    Image.fromarray(fit_tile(tiles.source.read(inner), PAIR_PX)), (left + side * (PAIR_PX + 4), top)
                )
            except BadTile:
                continue
        copies = found.copies
        words = f"group {copies.cluster[number]}: {copies.kind(number)}, {copies.distance[number]} of 255 differ"
        draw.text((left + 2, top + PAIR_PX + 4), words, fill="black")
    return sheet


def write_clean(path: Path, found: Findings) -> tuple[int, Counter[str]]:
    """Writes the list of tiles to train on, see audit.kept; returns how many they are, and how many not and why.

    Of one folder or table it names files (file,label,patient); of anything else, runs of tile numbers.
    """
    keep, why = kept(found)
    judged = [(place, tiles) for place, tiles in enumerate(found.sets) if not tiles.judges]
    chosen = [(tiles.spec, tiles.source, np.flatnonzero(keep[found.of(place)])) for place, tiles in judged]
    if len(chosen) == 1 and _has_files(chosen[0][1]):
        write_atomic(path, _file_list(chosen[0][1], chosen[0][2]))
    else:
        write_subset(path, [one for one in chosen if len(one[2])])
    return int(keep.sum()), why


def _has_files(source: Source) -> bool:
    return isinstance(source, EncodedTiles) and os.path.isfile(source.name(0))


def _file_list(source: Source, numbers: np.ndarray) -> str:
    """A table of files that `open_csv` takes."""
    titles = [
        "file",
        *(["label"] if source.classes else []),
        *([source.facts.group_kind or "group"] if source.groups is not None else []),
    ]
    columns: list[Iterable[str]] = [(os.path.abspath(source.name(i)) for i in numbers.tolist())]
    if source.classes:
        columns.append(_label(source, i) for i in numbers.tolist())
    if source.groups is not None:
        columns.append(str(source.groups[i]) for i in numbers.tolist())
    return csv_text(titles, zip(*columns))
