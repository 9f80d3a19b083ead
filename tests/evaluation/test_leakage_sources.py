"""Cases from feature files, runs, lists and sets of tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histojax.common.errors import UserError
from histojax.evaluation.leakage import check_leaks
from histojax.evaluation.leakage_sources import cases_of_features, ssl_cases
from histojax.features.stored import Header, StoredFeatures


def stored(name: str, groups: list[str] | None, kind: str = "", coords: bool = False) -> StoredFeatures:
    header = Header(Path(f"{name}.h5"), "histojax", name, 3, 2, np.dtype("float32"), group_kind=kind)
    x = np.random.default_rng(len(name)).normal(size=(3, 2)).astype(np.float32)
    return StoredFeatures(
        header, x, np.zeros((3, 2), np.int64) if coords else None, groups=None if groups is None else np.array(groups)
    )


def test_feature_files_tell_patients_slides_and_tiles():
    files = [
        stored("train", ["p1", "p1", ""], "patient"),
        stored("S1", None, coords=True),
        stored("t", ["s"] * 3, "slide"),
    ]
    found = cases_of_features("training", files)
    assert found.patients == ["p1"] and found.slides == ["S1", "s"]
    assert found.features.shape == (9, 2) and found.tiles[3] == "S1: 0"


def tile_list(folder: Path, patients: list[str]) -> Path:
    rows = ["file,patient"]
    for i, patient in enumerate(patients):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{patient}_{i}.png")
        rows.append(f"{patient}_{i}.png,{patient}")
    (folder / "tiles.csv").write_text("\n".join(rows) + "\n")
    return folder / "tiles.csv"


def test_a_run_tells_its_training_tiles_and_those_that_chose_its_checkpoint(tmp_path):
    tile_list(tmp_path, ["p1", "p2"])
    run = tmp_path / "runs" / "mine"
    (run / "export").mkdir(parents=True)
    (run / "provenance.json").write_text("{}")
    config = {"data": {"train": "tiles.csv"}, "eval": {"data": "gone.csv"}}
    (run / "config.json").write_text(json.dumps({"config": config}))
    cases, notes = ssl_cases(str(run / "export"), tmp_path / "hashes")
    assert [sorted(one.patients) for one in cases] == [["p1", "p2"]] and len(cases[0].hashes) == 2
    assert len(notes) == 1 and "chose the checkpoint" in notes[0] and "gone.csv" in notes[0]
    test, _ = ssl_cases(str(tmp_path / "tiles.csv"), tmp_path / "hashes")
    assert {one.kind for one in check_leaks(cases[0], test).shared} == {"patient", "identical tile"}


@pytest.mark.parametrize(
    ("file", "text"),
    [("names.txt", "P1\nTCGA-AA-1234-01Z-00-DX1\n\n"), ("names.csv", "Patient ID;age\nP1;3\nTCGA-AA-1234;4\n")],
)
def test_lists_of_names(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    (found,), _ = ssl_cases(str(tmp_path / file))
    assert list(found.patients) == ["P1", "TCGA-AA-1234"]


def test_a_spec_that_is_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ssl_cases(str(tmp_path / "nothing"))
