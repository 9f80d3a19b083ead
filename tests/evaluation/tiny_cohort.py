"""A small cohort on disk, as other programs would have written it: a feature file a slide and two tables."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

WIDTH = 6


def write_bag(path: Path, features: np.ndarray) -> None:
    """A file of nobody in particular: `features` alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features.astype(np.float32)


def write_cohort(root: Path, patients: int = 20, shift: float = 2.0, seed: int = 0, prefix: str = "P") -> Path:
    """root/features/*.h5, clini.csv (every second patient is MSIH; also age, time, event, site), slides.csv.

    The first patient has a second slide. Tiles of MSIH patients are moved by `shift`.
    """
    rng = np.random.default_rng(seed)
    clini, slides = ["PATIENT,status,age,time,event,site"], ["FILENAME,PATIENT"]
    for i in range(patients):
        name, high = f"{prefix}{i:02d}", i % 2
        for slide in ["a", "b"][: 2 if i == 0 else 1]:
            x = rng.normal(size=(rng.integers(1, 9), WIDTH)) + shift * high
            write_bag(root / "features" / f"{name}{slide}.h5", x)
            slides.append(f"{name}{slide},{name}")
        clini.append(f"{name},{'MSIH' if high else 'nonMSIH'},{40 + i},{9 - 5 * high + i / 10},{i % 3 > 0:d},s{i % 3}")
    (root / "clini.csv").write_text("\n".join(clini) + "\n")
    (root / "slides.csv").write_text("\n".join(slides) + "\n")
    return root
