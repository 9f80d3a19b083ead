import json
import math

import numpy as np
import pytest
from PIL import Image

from histojax.common.errors import UserError
from histojax.evaluation.evaluators import evaluators
from histojax.report.curves import draw_curves, save_curves
from histojax.training.panels import panels

PANELS = panels(evaluators())


def training_row(step):
    names = "loss dino_global dino_local ibot koleo feature_spread teacher_entropy prototype_use lr last_layer_lr"
    row = {name: 1.0 + i + 0.01 * step for i, name in enumerate(names.split())}
    return {"step": step, **row, "grad_norm/backbone": 0.5, "grad_norm/dino_head": 0.1}


def evaluation_row(step):
    row = {
        "step": step,
        "test/knn_balanced_accuracy": 0.8,
        "test/ridge_balanced_accuracy": 0.9,
        "validation/knn_balanced_accuracy": 0.7,
        "rankme": 90.0,
        "eval_spread": 0.7,
        "slides_auroc": 0.75,
    }
    return row | ({"histogram/test/knn_balanced_accuracy": 0.6} if step == 0 else {})


def titles(figure):
    return [ax.get_title(loc="left") for ax in figure.axes if ax.axison]


def lines(figure, title):
    (ax,) = (ax for ax in figure.axes if ax.get_title(loc="left") == title)
    return {line.get_label(): line for line in ax.get_lines()}


def test_every_panel_with_its_series():
    rows = [evaluation_row(0), *(training_row(step) for step in range(10, 60, 10)), evaluation_row(50)]
    figure = draw_curves(rows, PANELS, "a run")
    assert titles(figure) == [panel.title for panel in PANELS]
    loss = lines(figure, "Loss")
    assert set(loss) == {"total", "DINO global", "DINO local", "iBOT", "KoLeo"}
    np.testing.assert_array_equal(loss["total"].get_xdata(), [10, 20, 30, 40, 50])
    np.testing.assert_allclose(loss["total"].get_ydata(), [1.1, 1.2, 1.3, 1.4, 1.5])
    accuracy = lines(figure, "Balanced accuracy of the teacher: test")
    np.testing.assert_array_equal(accuracy["20-NN"].get_xdata(), [0, 50])
    np.testing.assert_array_equal(accuracy["20-NN on colour histograms"].get_ydata(), [0.6, 0.6])
    assert set(lines(figure, "Feature spread (1: random directions)")) == {"evaluation tiles", "training crops"}


def test_missing_series_leave_no_panel():
    figure = draw_curves([{"step": 1, "loss": 2.0, "lr": 0.0}], PANELS)
    assert titles(figure) == ["Loss", "Learning rate"]
    assert set(lines(figure, "Loss")) == {"total"}


def test_what_is_not_finite_is_marked_and_not_drawn():
    rows = [{"step": step, "loss": math.inf if step == 2 else 1.0} for step in range(5)]
    (ax,) = draw_curves(rows, PANELS).axes
    curve, mark = ax.get_lines()
    np.testing.assert_array_equal(curve.get_xdata(), [0, 1, 3, 4])
    assert list(mark.get_xdata()) == [2, 2]


@pytest.mark.parametrize("rows", [[], [{"step": 0}], [{"step": 0, "loss": math.nan}], [{"step": 0, "loss": 0.0}]])
def test_few_or_no_points_make_a_picture(tmp_path, rows):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row | {k: str(v) for k, v in row.items() if v != v}) + "\n" for row in rows))
    save_curves(metrics, tmp_path / "curves.png", PANELS)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG" and min(image.size) > 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_the_picture_shows_ink(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(training_row(step)) + "\n" for step in range(0, 100, 10)))
    save_curves(metrics, tmp_path / "curves.png", PANELS, "title")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert (pixels == (0, 0x72, 0xB2)).all(-1).sum() > 200  # the blue of the first curves


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        save_curves(tmp_path / "none.jsonl", tmp_path / "curves.png", PANELS)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    with pytest.raises(UserError, match=r"missing/curves\.png: cannot be written"):
        save_curves(tmp_path / "metrics.jsonl", tmp_path / "missing" / "curves.png", PANELS)
