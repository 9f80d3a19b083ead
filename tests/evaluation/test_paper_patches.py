"""Table 2 from folders of tiles and the weights of a training: features once, scores of the patch protocol."""

import numpy as np
import pytest
from finished_run import make_run
from PIL import Image

from histojax.common.errors import UserError
from histojax.evaluation.paper import patch_scores
from histojax.evaluation.paper.plan import make_plan
from histojax.evaluation.paper.run import run
from histojax.evaluation.paper.settings import Benchmark, Row


def tiles(folder, count, seed):
    rng = np.random.default_rng(seed)
    for label, red in (("A", 120), ("B", 200)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.normal([red, 110, 170], 25, (28, 28, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{seed}_{i}.png")
    return str(folder)


def test_a_row_is_scored_with_features_computed_once(tmp_path, monkeypatch):
    trained = str(make_run(tmp_path / "run")[0])
    data = {"train": tiles(tmp_path / "train", 12, 0), "test": tiles(tmp_path / "test", 4, 1)}
    asked = Benchmark("mine", "patch", (Row("mine", trained),), **data, run_row="", draws=20)
    heard = []
    outcome = run(asked, make_plan(asked), tmp_path / "out", patch_scores.score, heard.append)
    ours = {cell.column: cell.ours for cell in outcome.tables[0].cells}
    assert set(ours) == {"20-NN ACC", "20-NN F1", "Linear ACC", "Linear F1"}
    assert not outcome.holes and all(0 <= value <= 1 for value in ours.values())
    leaks = [line for line in heard if line.startswith("leakage: ")]
    assert leaks and len(leaks) == len(set(leaks))

    def computed(*_):
        raise AssertionError("features were computed a second time")

    monkeypatch.setattr(patch_scores, "extract_patches", computed)
    again = run(asked, make_plan(asked), tmp_path / "out", patch_scores.score, heard.append)
    assert str(again.tables[0]) == str(outcome.tables[0])  # NaN is not equal to itself


def test_a_copy_of_a_test_tile_in_training_is_refused(tmp_path):
    trained = str(make_run(tmp_path / "run")[0])
    data = {"train": tiles(tmp_path / "train", 12, 0), "test": tiles(tmp_path / "test", 4, 0)}
    asked = Benchmark("mine", "patch", (), **data, draws=0)
    with pytest.raises(UserError, match=r"config\.allow_leaks"):
        patch_scores.score(Row("mine", trained), asked, data, tmp_path / "out", print)
