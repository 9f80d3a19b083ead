"""Small image folders for the tests of this room."""

from __future__ import annotations

import io
import multiprocessing
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, px: int = 32) -> np.ndarray:
    """(px, px, 3) uint8: red and green tell its number, blue rises from left to right."""
    tile = np.full((px, px, 3), (number % 251, number // 251, 7), np.uint8)
    tile[..., 2] += np.linspace(0, 200, px, dtype=np.uint8)
    return tile


def file_bytes(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def make_folder(root: Path, counts: dict[str, int], px: int = 32) -> Path:
    """Folder with `counts` = {class sub-folder ("" for none): files}; picture numbers run through."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            (root / name / f"tile_{number:03d}.png").write_bytes(file_bytes(picture(number, px)))
            number += 1
    return root


def zip_folder(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def spoil(folder: Path, numbers) -> None:
    """Overwrites the files of these picture numbers with text."""
    for file in folder.rglob("tile_*.png"):
        if int(file.stem.split("_")[1]) in numbers:
            file.write_text("this is not an image")


class HostOnly:
    """A source that refuses to be read in a worker process where jax has opened a device."""

    def __init__(self, source):
        self.source = source
        self.classes, self.labels, self.groups = source.classes, source.labels, source.groups

    def __len__(self):
        return len(self.source)

    def name(self, index):
        return self.source.name(index)

    def fingerprint(self):
        return self.source.fingerprint()

    def read(self, index):
        if multiprocessing.parent_process() is not None and "jax" in sys.modules:
            bridge = sys.modules["jax._src.xla_bridge"]
            assert not bridge.backends_are_initialized() and sys.modules["jax"].config.jax_platforms == "cpu"
        return self.source.read(index)
