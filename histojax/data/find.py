"""Which files of a folder or an archive are tiles, and why the others are none: one rule for all."""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histojax.common.errors import UserError
from histojax.data.formats import FORMATS, OTHER_OF, is_tile_name, suffix_of

SYSTEM = {  # folders and files that a computer makes by itself, in lower case; a dot in front says it, too
    *("__macosx", "lost+found", "$recycle.bin", "recycler", "#recycle", "@recycle", "@recently-snapshot"),
    *("system volume information", "#snapshot", "@eadir", "@tmp", "@synoresource", "@sharebin", "@database"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__", "network trash folder", "temporary items"),
    *("thevolumesettingsfolder", "found.000", "recycled"),
}
PICTURES = {"images", "image", "imgs", "img", "tiles", "patches", "pictures", "png", "jpg", "tif"}
DRAWINGS = {  # of what is seen in the pictures that lie in a folder beside
    *("masks", "mask", "labels", "annotations", "annotation", "overlays", "overlay", "segmentations", "segmentation"),
    *("gt", "groundtruth", "ground_truth", "thumbnails", "thumbs", "previews", "contours", "stitches", "heatmaps"),
    *("visualization", "visualizations", "contours_geojson"),
}
HIDDEN, EMPTY, LINKS, LOOPS = "hidden or of the system", "empty", "broken links", "links to folders seen already"
NO_IMAGE, DRAWN, TWICE = "not images", "masks or overlays", "named twice"
ENCRYPTED = "encrypted: unpack them with the password"
COMPRESSED = "compressed in a way that is not read: unpack them"


@dataclass
class Found:
    """Tiles of a folder, an archive or a table, with their sizes in bytes; and what was left out, with reasons."""

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (name, reason)
    suffixes: Counter[str] = field(default_factory=Counter)  # of those that are not images
    members: dict[str, str] = field(default_factory=dict)  # of an archive: what each name is in it

    def leave_out(self, name: str, reason: str = "") -> None:
        """Remembers a file that is no tile; without a `reason` its suffix says which."""
        if not reason:
            reason = OTHER_OF.get(suffix_of(name), NO_IMAGE)
            self.suffixes[suffix_of(name) or "no suffix"] += 1
        self.left_out.append((name, reason))

    def count(self, *reasons: str) -> int:
        """How many were left out for these reasons."""
        return sum(reason in reasons for _, reason in self.left_out)

    def summary(self) -> str:
        """E.g. 32 tiles (24 .bmp, 8 .png); left out: 3 (2 not images, 1 empty)."""
        kinds = Counter(suffix_of(name) or "no suffix" for name in self.names)
        missing = self.sizes.count(-1)
        text = f"{len(self.names)} tiles ({_counts(kinds)})" + (f", {missing} of them do not exist" if missing else "")
        return text + (f"; {self.what_is_left()}" if self.left_out else "")

    def what_is_left(self) -> str:
        """What was left out, "" for nothing."""
        if not self.left_out:
            return ""
        text = f"left out: {len(self.left_out)} ({_counts(Counter(reason for _, reason in self.left_out))})"
        return text + (f", with {_counts(self.suffixes)}" if self.suffixes else "")


def _counts(counter: Counter[str], most: int = 6) -> str:
    known = counter.most_common()
    shown = ", ".join(f"{count} {what}" for what, count in known[:most])
    return shown + (f" and {sum(count for _, count in known[most:])} more" if len(known) > most else "")


def find_in_folder(folder: Path) -> Found:
    """The tiles of a folder, linked folders included; raises UserError if there are none, or most are empty."""
    found = Found()
    tiles = dict(_walk(folder, found))
    return _finish(found, tiles, str(folder), "this folder or below; files")


def find_in_zip(path: Path) -> Found:
    """The tiles of a zip archive, by the names they have in it; raises UserError as `find_in_folder`."""
    found = Found()
    try:
        with zipfile.ZipFile(path) as archive:
            tiles: dict[str, int] = {}
            for member in archive.infolist():
                name = _name_in_zip(member)
                if name.endswith("/"):
                    continue
                if reason := _why_not(member, name):
                    found.leave_out(name, reason)
                elif _accept(name, found) and not _is_empty(name, member.file_size, found):
                    if name in tiles:
                        found.leave_out(name, TWICE)  # an archive that was added to: the last one counts
                    tiles[name] = member.file_size
                    found.members[name] = member.filename
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable zip archive ({error})") from None
    return _finish(found, tiles, str(path), "this zip; members")


def _name_in_zip(member: zipfile.ZipInfo) -> str:
    """A member's name with / and as it was typed: some archivers write backslashes, some UTF-8 without saying so."""
    name = member.filename
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name if "/" in name else name.replace("\\", "/")


def _why_not(member: zipfile.ZipInfo, name: str) -> str:
    """Why a member's bytes cannot be had, "" if they can."""
    if is_system(name):
        return HIDDEN
    if member.flag_bits & 1:
        return ENCRYPTED
    if member.create_system == 3 and stat.S_ISLNK(member.external_attr >> 16):
        return "links"
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return "" if member.compress_type in known else COMPRESSED


def _finish(found: Found, tiles: dict[str, int], place: str, where: str) -> Found:
    """`found` with the sorted tiles; raises UserError where they are too few."""
    drawn = _drawings(tiles)
    for name in drawn:
        found.leave_out(name, DRAWN)
    found.names = sorted(tiles.keys() - drawn)
    found.sizes = [tiles[name] for name in found.names]
    if not found.names:
        suffixes = ", ".join(suffix for known in FORMATS.values() for suffix in known)
        left = f"; {found.what_is_left()}" if found.left_out else ""
        raise UserError(f"{place}: no image in {where} ending in {suffixes} are read{left}")
    lost = found.count(EMPTY, LINKS)
    if lost > len(found.names):
        raise UserError(
            f"{place}: {lost} of its {lost + len(found.names)} images are empty files or broken links: was a copy "
            "interrupted? Copy them again, or remove these"
        )
    return found


def _walk(folder: Path, found: Found) -> Iterator[tuple[str, int]]:
    """(path relative to `folder` with /, size) of the tiles; folders behind links are entered last, and none twice."""
    waiting = [(str(folder), "")]
    links: list[tuple[str, str]] = []
    seen: set[str] = set()
    home = os.path.realpath(folder)
    while waiting or links:
        path, inside = waiting.pop() if waiting else links.pop(0)
        real = os.path.realpath(path)
        # a link to a folder around this one would lead through everything, and back here
        if real in seen or (inside and home.startswith(real.rstrip(os.sep) + os.sep)):
            found.leave_out(inside, LOOPS)
            continue
        seen.add(real)
        entries = _entries(path)
        if any(is_of_store(entry.name) for entry in entries):  # its pictures for people are no tiles
            raise UserError(f"{folder}: holds a tile store, {path}: name the store itself, and images apart from it")
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if is_system(entry.name + "/" * entry.is_dir()):
                found.leave_out(name, HIDDEN)
            elif entry.is_dir():
                (links if entry.is_symlink() else waiting).append((entry.path, name))
            elif _accept(name, found) and (size := _size(entry, name, found)) > 0:
                yield name, size


def is_of_store(name: str) -> bool:
    """Whether a file of this name tells that its folder is a tile store, or what a copy left of one."""
    return name in ("store.json", "index.arrow") or name.endswith(".arrayrecord")


def _entries(path: str) -> list[os.DirEntry]:
    """What lies in a folder, sorted; raises UserError if it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: this folder cannot be read ({error.strerror}): correct its permissions "
            "(chmod u+rx) or move it away"
        ) from None


def _size(entry: os.DirEntry, name: str, found: Found) -> int:
    """Bytes of a file, 0 if it is left out."""
    try:
        facts = entry.stat()
    except OSError:
        found.leave_out(name, LINKS)
        return 0
    if not stat.S_ISREG(facts.st_mode):
        found.leave_out(name, "pipes or devices")
        return 0
    return 0 if _is_empty(name, facts.st_size, found) else facts.st_size


def _is_empty(name: str, size: int, found: Found) -> bool:
    if not size:
        found.leave_out(name, EMPTY)
    return not size


def _accept(name: str, found: Found) -> bool:
    """Whether a file's name is that of a tile; counts it if not."""
    if is_tile_name(name):
        return True
    found.leave_out(name)
    return False


def is_system(name: str) -> bool:
    """Whether a part of a path is hidden or belongs to the computer, not to its user; a folder ends with /.

    Storage boxes put @ or $ in front of folders of their own, some ~.
    """
    *folders, file = [part for part in name.split("/") if part not in (".", "..")]
    own = any(part.startswith((".", "@", "$", "~")) or part.lower() in SYSTEM for part in folders)
    return own or file.startswith(".") or file.lower() in SYSTEM


def _drawings(names: Iterable[str]) -> set[str]:
    """Names in folders of masks, overlays or previews that have a folder of pictures beside them."""
    inside: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        inside.setdefault(tuple(name.split("/")[:-1]), []).append(name)
    pictures = {f[:i] for f in inside for i in range(len(f)) if f[i].lower() in PICTURES}
    return {
        name
        for f, members in inside.items()
        if any(f[i].lower() in DRAWINGS and f[:i] in pictures for i in range(len(f)))
        for name in members
    }
