"""What the folders of tiles say: which are classes, which patients or slides, which parts of a split.

`{train,val}/{ADI,TUM}` and `{ADI,TUM}/{train,val}` have the classes ADI and TUM; `{TCGA-A1-A0SB,...}/x.png` has
patients and no classes. Where two readings fit equally well there are no labels, and a note says why.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from histojax.data.find import PICTURES
from histojax.data.patients import group_kind, looks_like_ids, patients_of

_PART = (
    "train(ing)?|trn|val(id(ation)?)?|test(s|ing)?|tst|dev(el(opment)?)?|tun(e|ing)|discovery|hold[-_ ]?out"
    "|eval(uation)?"
)
_WHERE = "internal|external|independent|indep|id|ood|in|out|final|hidden|official|public|private"
_WHAT = "set|data|split|images|imgs|tiles|patches|part|cohort|only"
SPLIT = re.compile(
    rf"(({_WHERE})[-_ ]|internal|external)?({_PART})([-_ ]?({_WHERE}|{_WHAT}))?"
    r"([-_ ]?\d{1,4}|[-_ ][a-z]|(?-i:[A-Z]))?"
    rf"|(cv|k?[-_ ]?folds?|split|partition)[-_ ]?(\d{{1,2}}|[a-z])|(internal|external|independent)([-_ ]?({_WHAT}))?",
    re.IGNORECASE,
)
NEUTRAL = re.compile(  # where and how tiles were made, not what they show
    r"x(1\.25|2\.5|5|10|20|40|60|63|80|100)|\d+(\.\d+)?x|mag[-_ ]?\d+x?|\d+x\d+(px)?|level[-_ ]?\d"
    r"|\d+(\.\d+)?[-_ ]?(mpp|um|px)"
    r"|(batch|chunk|shard|subset|site|cent(er|re)|hospital|scanner|cohort|data ?set)[-_ ]?(\d+|[a-z])",
    re.IGNORECASE,
)


PART_WITHIN = re.compile(  # in a longer name: CRC_DX_TRAIN, CRC-VAL-HE-7K, test_benign
    r"(?:^|[-_ ])(train|val|test|dev|discovery|holdout)(ing|id|idation|elopment)?(?=$|[-_ \d])", re.IGNORECASE
)
UNLABELLED = re.compile(r"un[-_ ]?(label(l)?ed|annotated|classified)|(no|without)[-_ ]?labels?", re.IGNORECASE)


@dataclass
class Layout:
    """One class ("": none) and one patient or slide a tile, the latter's kind, and what has to be said about it."""

    classes: list[str]
    groups: list[str] | None = None
    kind: str = ""  # of the groups: patient, slide, or "" without
    notes: list[str] = field(default_factory=list)


def is_split(name: str) -> bool:
    """Whether a folder or a value is named after a part of a split: train, val_1, fold3, external_test."""
    return SPLIT.fullmatch(name.strip()) is not None


def read_layout(names: Sequence[str]) -> Layout:
    """What the folders in `names` say.

    Classes are the first folders that tell tiles apart, below any that lie around all of them; parts of a split,
    magnifications and folders called images are no classes. A tile beside the class folders has no label.
    """
    whole = [tuple(unicodedata.normalize("NFC", part.strip()) for part in name.split("/")[:-1]) for name in names]
    table = {folders: _without_wrappers(folders) for folders in set(whole)}
    notes = _splits_said(whole)
    folders, said = _without_parts(_unwrapped([table[folders] for folders in whole]))
    notes += said
    layout = _without_unlabelled(_classes(_unwrapped(folders)))
    if not any(layout.classes) and not layout.notes:
        notes += _neutral_said(whole)
    layout.notes = notes + layout.notes + spellings_said(layout.classes)
    if layout.groups is None and (patients := patients_of(names)):
        layout.groups, layout.kind = patients, "patient"
    return layout


def _without_unlabelled(layout: Layout) -> Layout:
    """The layout where folders called unlabelled are no class."""
    names = {name for name in layout.classes if UNLABELLED.fullmatch(name)}
    if names:
        layout.classes = ["" if name in names else name for name in layout.classes]
        layout.notes.append(f"the tiles in {_some(names)} have no label")
    return layout


def _without_wrappers(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f for f in folders if not (is_split(f) or NEUTRAL.fullmatch(f) or f.lower() in PICTURES))


def _without_parts(folders: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """(folders without the parts of a split that the first names tell, what to say of it).

    `{kather_train,kather_test}` are parts only; of `{train_benign,train_malignant,test_benign,test_malignant}` the
    rest of the names is left.
    """
    counts = Counter(f[0] for f in folders if f)
    found = {name: PART_WITHIN.search(name) for name in counts}
    if len({m[1].lower() for m in found.values() if m}) < 2 or not all(found.values()):
        return folders, []
    rest = {name: (name[: m.start()] + name[m.end() :]).strip("-_ ") for name, m in found.items() if m}
    often = Counter(rest.values())
    if len(often) > 1 and min(often.values()) < 2:
        return folders, []
    kept = {name: () if len(often) == 1 else (word,) for name, word in rest.items()}
    return [(*kept[f[0]], *f[1:]) if f else f for f in folders], _parts_said(counts)


def _unwrapped(folders: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Without the folder around all other folders; images that lie directly in it have none then."""
    while len({f[0] for f in folders if f}) == 1 and any(len(f) > 1 for f in folders):
        folders = [f[1:] for f in folders]
    return folders


def _classes(folders: list[tuple[str, ...]]) -> Layout:
    """Classes and groups of folders without splits and wrappers."""
    first = [f[0] if f else "" for f in folders]
    top = set(first) - {""}
    none = [""] * len(folders)
    if not top or (len(top) == 1 and not looks_like_ids(top)):
        return Layout(none)
    if looks_like_ids(top):
        return _below_ids(folders, first, top)
    if len(top) == 1:
        return Layout(none)
    if shared := _shared(folders, top):
        if _numbers(top) and not _numbers(shared):
            return Layout([f[1] if len(f) > 1 else "" for f in folders])
        if _numbers(shared) and not _numbers(top):
            return Layout(first)
        if any(map(PART_WITHIN.search, top)) and not any(map(PART_WITHIN.search, shared)):
            return Layout([f[1] if len(f) > 1 else "" for f in folders], notes=_parts_said(Counter(first)))
        return Layout(
            none,
            notes=[
                f"no labels: either the folders {_some(top)} are the classes or {_some(shared)}, which lie in each of "
                "them; a table with the columns file,label says which"
            ],
        )
    for level in range(1, max(map(len, folders))):
        below = [f[level] if len(f) > level else "" for f in folders]
        if all(b or not f for f, b in zip(folders, below)) and looks_like_ids(set(below) - {""}):
            return Layout(first, *_groups(below))
    return Layout(first, notes=_doubts_said(folders, top))


def _below_ids(folders: list[tuple[str, ...]], first: list[str], top: set[str]) -> Layout:
    """The layout where the first folders are patients or slides."""
    groups, kind = _groups(first)
    second = [f[1] if len(f) > 1 else "" for f in folders]
    classes = set(second) - {""}
    shared = Counter(label for _, label in {(f[0], f[1]) for f in folders if len(f) > 1})
    if len(classes) > 1 and not looks_like_ids(classes) and max(shared.values()) > 1:
        return Layout(second, groups, kind)
    return Layout(
        [""] * len(folders),
        groups,
        kind,
        [
            f"the folders {_some(top)} look like {kind}s, not classes: used to keep their tiles together, no labels; "
            "if they are classes, say so in a table with the columns file,label"
        ]
        * (len(top) > 1),
    )


def _groups(ids: Sequence[str]) -> tuple[list[str], str]:
    """(patients if the names tell them, else the names as they are; what they are)."""
    patients = patients_of(ids)
    return (patients, "patient") if patients else (list(ids), group_kind(ids))


def _shared(folders: list[tuple[str, ...]], top: set[str]) -> set[str]:
    """Names of folders that lie in most of the `top` folders, if that is a rule there: then either may be classes."""
    below: dict[str, set[str]] = {name: set() for name in top}
    for f in set(folders):
        if len(f) > 1:
            below[f[0]].add(f[1])
    if any(len(names) < 2 or looks_like_ids(names) for names in below.values()):
        return set()
    counts = Counter(name for names in below.values() for name in names)
    often = {name for name, count in counts.items() if count > len(top) / 2}
    return often if len(often) > 1 and 2 * len(often) > len(counts) else set()


def _numbers(names: set[str]) -> bool:
    return all(name.isdigit() for name in names)


def _splits_said(whole: list[tuple[str, ...]]) -> list[str]:
    counts = Counter(next((f for f in folders if is_split(f)), "") for folders in whole)
    return [] if len(counts) == 1 else _parts_said(counts)


def _parts_said(counts: Counter[str]) -> list[str]:
    """What to say of the parts of a split with these numbers of tiles."""
    found = {name: count for name, count in counts.items() if name}
    if not found:
        return []
    parts = ", ".join(f"{name} {count}" for name, count in sorted(found.items()))
    return [
        f"its parts ({parts} tiles) are read together, as one set: name their folders one by one to keep them apart"
    ]


def _doubts_said(folders: list[tuple[str, ...]], top: set[str]) -> list[str]:
    """Notes on classes of which some are called like slides, or which hold folders that could be classes as well."""
    like = {name for name in top if looks_like_ids([name])}
    below = {f[1] for f in folders if len(f) > 1}
    notes = [f"the folders {_some(like)} look like {group_kind(like)}s: are they classes?"] if len(like) > 1 else []
    if len(below) > 1:
        notes.append(f"the folders within the classes ({_some(below)}) are not told apart")
    return notes


def _neutral_said(whole: list[tuple[str, ...]]) -> list[str]:
    names = {f for folders in whole for f in folders if NEUTRAL.fullmatch(f)}
    if len(names) < 2:
        return []
    return [f"the folders {_some(names)} are magnifications, places or portions, not classes: no labels"]


def spellings_said(classes: Iterable[str]) -> list[str]:
    """Notes on classes that are one word in two spellings."""
    spellings: dict[str, set[str]] = {}
    for name in set(classes) - {""}:
        spellings.setdefault(re.sub(r"[\s_-]+", "", name.casefold()), set()).add(name)
    return [f"are {_some(s)} one class? They count as {len(s)}" for s in spellings.values() if len(s) > 1]


def _some(names: Iterable[str], most: int = 4) -> str:
    known = sorted(names)
    return ", ".join(known[:most]) + (f" ... ({len(known)})" if len(known) > most else "")
