"""Where in a file a network is: under which prefix its tensors have the names of a layout.

Training code wraps what it saves, in dicts ({"model": {...}}), in modules (`net.`, `module.`, `model.backbone.`), and
with marks of its compiler. All prefixes are tried, so that none has to be known. A name's dicts end in "/", its
modules in ".": `state_dict/model.blocks.0.norm1.weight`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from histojax.common.errors import UserError
from histojax.weights.detect import detect_layout

SIDES = ("teacher", "student")
BACKBONE, DINO_HEAD, IBOT_HEAD, OTHER_HEAD = "backbone", "dino_head", "ibot_head", "head"
# what files hold beside a backbone, outside its prefix, that no encoder needs
_ASIDE = (
    "head.*", "classifier.*", "pooler.*", "lm_head.*", "decoder.*", "fc.*", "criterion.*", "loss.*", "*metrics.*",
    "queue", "queue_ptr", "n_averaged",
)  # fmt: skip
# modules that lag behind the trained one
_COPIES = re.compile(r"encoder_k|(.*_)?ema(_.*)?|.*momentum.*|target(_.*)?|.*shadow.*")
_DEPTH = 8  # modules and dicts around a network, at most
_FEWEST = 6  # tensors of a network or a head, at least

_MARKS = re.compile(r"(?:^|(?<=[./]))(?:_fsdp_wrapped_module|_orig_mod)\.")
_CHUNKED = re.compile(r"^(.*\bblocks)\.\d+\.(\d+)\.(.+)$")
_WEIGHT_NORM = re.compile(r"(?:(?<=\.)|^)parametrizations\.weight\.original([01])$")
_HEAD_NAME = re.compile(r"mlp\.(?:\d+\.)?(?:weight|bias)|last_layer\.weight(?:_g|_v)?")


@dataclass(frozen=True)
class Place:
    """A network, or a projection head, that was found in a file."""

    prefix: str  # of its names: "teacher/backbone."
    kind: str  # BACKBONE, or a head: DINO_HEAD, IBOT_HEAD; OTHER_HEAD: one that no training here goes on with
    names: tuple[str, ...]  # without the prefix
    families: tuple[str, ...] = ()  # of the layouts that fit

    @property
    def side(self) -> str:
        """ "teacher" or "student" if the prefix says so, else ""."""
        return next((side for part in _parts(self.prefix) for side in SIDES if part.startswith(side)), "")

    @property
    def title(self) -> str:
        """The prefix for messages, as --which takes it."""
        return self.prefix.rstrip("./").replace("/", ".") or "the whole file"

    def within(self, other: Place) -> bool:
        """Whether it is a part of another place."""
        return self.prefix != other.prefix and self.prefix.startswith(other.prefix)


WHOLE = Place("", BACKBONE, ())  # of a file that holds a network and nothing else


def clean_names(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (tensors under the names that their modules have, notes on what was changed).

    Undone is what training code does to names: marks of FSDP and torch.compile (`_fsdp_wrapped_module.`,
    `_orig_mod.`), torch's weight-norm parametrisation (-> `weight_g`, `weight_v`), and chunked blocks
    (`blocks.<chunk>.<i>` -> `blocks.<i>`, facebookresearch/dinov2 `block_chunks`).
    """
    notes: list[str] = []
    for pattern, change, note in (
        (_MARKS, "", "FSDP / compile wrappers removed"),
        (_WEIGHT_NORM, lambda match: f"weight_{'gv'[int(match[1])]}", "weight-norm renamed to weight_g / weight_v"),
        (_CHUNKED, r"\1.\2.\3", "chunked blocks flattened"),
    ):
        renamed = {pattern.sub(change, name): tensor for name, tensor in tensors.items()}
        if len(renamed) != len(tensors):
            raise UserError(f"{len(tensors) - len(renamed)} tensors fall on one name with others ({note})")
        if list(renamed) != list(tensors):
            notes.append(note)
        tensors = renamed
    return dict(tensors), notes


def find_places(names: Collection[str]) -> list[Place]:
    """Return the networks and heads among clean tensor names, by the layouts that fit below each prefix."""
    below: dict[str, set[str]] = {"": set()}
    for name in names:
        ends = [match.end() for match in re.finditer(r"[./]", name)][:_DEPTH]
        inner = name.rfind("/") + 1  # the tensors of a network are in one dict
        for end in (0, *ends):
            if end >= inner:
                below.setdefault(name[:end], set()).add(name[end:])
    places = []
    for prefix, found in below.items():
        if all(map(_HEAD_NAME.fullmatch, found)) and any(name.startswith("last_layer.") for name in found):
            alone = len(found) == len(names)
            kind = IBOT_HEAD if "ibot" in prefix else DINO_HEAD if "dino_head" in prefix or alone else OTHER_HEAD
            places.append(Place(prefix, kind, tuple(sorted(found))))
        elif len(found) >= _FEWEST and (layouts := detect_layout(found)):
            families = tuple(dict.fromkeys(layout.family for layout, _ in layouts))
            places.append(Place(prefix, BACKBONE, tuple(sorted(found)), families))
    return [place for place in places if place.kind == BACKBONE or not _is_part(place, places)]


def choose_place(
    places: Iterable[Place], which: str | None = None, family: str | None = None
) -> tuple[Place | None, list[str]]:
    """Return (the network that is wanted, notes on the choice) of those in a file; None if there is none.

    Args:
        places: see find_places.
        which: "teacher" or "student", where the file has both (default: the teacher), or any part of a prefix. A
            side is let pass where the file has only one network, which says no side.
        family: what is expected, a key of families.FAMILIES.

    Raises:
        UserError: no network there, or several that are equal; the prefixes are listed.
    """
    found = [place for place in places if place.kind == BACKBONE]
    sides = {place.side for place in places} - {""}
    if which in SIDES:
        if sides and which not in sides:
            raise UserError(f"has {' and '.join(sorted(sides))} parameters but no {which}")
        found = [place for place in found if place.side == which] or found
    elif which is not None:
        known = _listing(found) or "none"
        asked = which.replace("/", ".")
        exact = [place for place in found if place.title == asked]
        found = exact or [place for place in found if f".{asked}." in f".{place.title}."]
        if not found:
            raise UserError(f"no network under {which!r}; found: {known}")
    found = [place for place in found if family in place.families] or found
    inner = [place for place in found if not any(place.within(other) for other in found)]
    best = inner
    if which is None and set(SIDES) <= {place.side for place in best}:
        best = [place for place in best if place.side == SIDES[0]]
    best = [place for place in best if not any(map(_COPIES.fullmatch, _parts(place.prefix)))] or best
    most = max((len(place.names) for place in best), default=0)
    best = [place for place in best if len(place.names) == most]
    if len(best) > 1:
        raise UserError(f"holds several networks, {_listing(best)}; say which one is wanted: --which {best[0].title}")
    return (best[0], _note(best[0], inner)) if best else (None, [])


def tensors_at(tensors: Mapping[str, Any], place: Place, places: Iterable[Place]) -> dict[str, Any]:
    """Return the tensors of a place under names without its prefix, and without those of networks inside of it."""
    nested = tuple(other.prefix[len(place.prefix) :] for other in places if other.within(place))
    return {name: tensors[place.prefix + name] for name in place.names if not name.startswith(nested)}


def whole_level(names: Collection[str], *, strip: bool = False) -> Place:
    """Return the dict with most tensors as a place, for what fits no layout; `strip`: without what all names share."""
    level = Counter(name[: name.rfind("/") + 1] for name in names).most_common(1)[0][0]
    inner = [name[len(level) :] for name in names if name[: name.rfind("/") + 1] == level]
    while strip and all("." in name for name in inner) and len({name.partition(".")[0] for name in inner}) == 1:
        level += inner[0].partition(".")[0] + "."
        inner = [name.partition(".")[2] for name in inner]
    return Place(level, BACKBONE, tuple(inner))


def sort_others(names: Iterable[str], place: Place, places: Iterable[Place]) -> tuple[list[str], list[str]]:
    """Return (names beside a place that no encoder needs, those that nothing is known of), both of the same dict.

    No encoder needs other networks and heads, what is on neither or the other side of a training, and a few modules
    that are known by name (a loss, a queue).
    """
    others = [other.prefix for other in places if not place.within(other) and other.prefix != place.prefix]
    level = place.prefix[: place.prefix.rfind("/") + 1]
    own = {place.prefix + name for name in place.names}
    aside: list[str] = []
    unknown: list[str] = []
    for name in names:
        if name in own or not name.startswith(level) or "/" in name[len(level) :]:
            continue
        known = name.startswith(tuple(others)) or (place.side and place.side not in name) or is_aside(name, place)
        (aside if known else unknown).append(name)
    return aside, unknown


def is_aside(name: str, place: Place) -> bool:
    """Whether a name is of something that no encoder needs; prefixes that it shares with the place do not count."""
    for part in re.findall(r"[^./]*[./]", place.prefix):
        name = name.removeprefix(part)
    return any(fnmatchcase(name, pattern) for pattern in _ASIDE)


def list_other_keys(tensors: Iterable[str], other: Mapping[str, str], place: Place) -> list[str]:
    """Return what is in other dicts than the place's: "key (3 tensors)", "key (7)"."""
    level = place.prefix[: place.prefix.rfind("/") + 1]
    counts: dict[str, int] = {}
    for name in tensors:
        if (key := _other_key(name, level)) is not None:
            counts[key] = counts.get(key, 0) + 1
    told = {key: f"{count} tensors" for key, count in counts.items()}
    for path, what in other.items():
        if (key := _other_key(path, level, leaf=True)) is not None and key not in told:
            told[key] = what if key == path else "dict"
    return [f"{key.rsplit('/', 1)[-1]} ({what})" for key, what in told.items()]


def _other_key(path: str, level: str, *, leaf: bool = False) -> str | None:
    """Return the key beside those that lead to `level` under which a path is, None if it is in that very dict."""
    here = ""
    for part in re.findall(r"[^/]*/", path):
        if not level.startswith(here + part):
            return here + part[:-1]
        here += part
    return path if leaf or here != level else None


def _note(place: Place, places: list[Place]) -> list[str]:
    if len(places) < 2:
        return [f"found under {place.title}"] if place.prefix else []
    others = _listing([other for other in places if other is not place])
    if place.side and {other.side for other in places} >= set(SIDES):
        return [f"the file has a teacher and a student: took the {place.side}, {place.title}; there is {others}"]
    return [f"took {place.title} ({len(place.names)} tensors); --which takes another: {others}"]


def _listing(places: list[Place]) -> str:
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    return ", ".join(f"{place.title} ({len(place.names)} tensors)" for place in places[:8]) + more


def _is_part(place: Place, places: list[Place]) -> bool:
    return any(place.within(other) and place.kind == other.kind for other in places)


def _parts(prefix: str) -> list[str]:
    return [part for part in re.split(r"[./]", prefix) if part]
