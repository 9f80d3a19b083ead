"""Tables from results: verdicts, holes that are named, files that say the same in CSV, Markdown and picture."""

import csv
import json

import pytest
from PIL import Image

from histojax.common.errors import UserError
from histojax.evaluation.paper.cells import ABOVE, AGREES, BELOW, HOLE, NO_NUMBER, NOT_COMPARED
from histojax.evaluation.paper.figure import cells_of, points_of, write_figure
from histojax.evaluation.paper.numbers import TABLE_1, TABLE_2
from histojax.evaluation.paper.settings import make_rows
from histojax.evaluation.paper.tables import encoder_table, holes, others_table, score_table
from histojax.evaluation.paper.write_tables import write_all
from histojax.evaluation.results import Results, Score

SMALL = ("ResNet50", "ResNet50 truncated", "DINOv2 ViT-S")


def results(name, value, columns=TABLE_2):
    scores = tuple(
        Score(one.evaluator, one.part, one.metric, value + i / 100, value - 0.02, value + 0.03, 0.05)
        for i, one in enumerate(columns)
    )
    return Results(name, "patch", "classification", "label", ("a", "b"), (), scores)


def lines_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def rows():
    weights = ("ResNet50=random", "DINOv2 ViT-S=own.safetensors")
    return make_rows("patch", ("DINOv2 ViT-S", "resnet50", "CTransPath", "RetCCL"), ("uni", "mine=uni2_h"), weights)


def table(another=""):
    found = {"DINOv2 ViT-S": results("a", 0.885), "ResNet50": results("b", 0.5), "uni": results("c", 0.88)}
    found |= {"CTransPath": "its file is missing", "RetCCL": results("d", 0.80)}
    return score_table("patch", rows(), found, another)


def test_every_cell_has_its_verdict():
    found = {name: table().cell(name, "20-NN ACC") for name in table().rows}
    expected = [AGREES, NOT_COMPARED, HOLE, BELOW, NO_NUMBER, HOLE]
    assert [cell.verdict for cell in found.values()] == expected
    assert found["CTransPath"].why == "its file is missing" and found["mine"].why == "not run"
    assert table().cell("RetCCL", "20-NN ACC").tolerance == 0.01
    assert table("other tiles").cell("RetCCL", "20-NN ACC").why == "other tiles"
    assert score_table("patch", rows(), {"RetCCL": results("d", 0.95)}).cell("RetCCL", "Linear F1").verdict == ABOVE


def test_holes_are_named_once_for_all_their_columns():
    found = holes([table()])
    assert found["CTransPath", "its file is missing"] == [column.title for column in TABLE_2]
    assert set(found) == {("CTransPath", "its file is missing"), ("mine", "not run")}


def test_the_slide_table_is_of_means_over_folds():
    chosen = make_rows("slide", ("CTransPath",), (), ())
    one = score_table("slide", chosen, {"CTransPath": results("a", 0.83, TABLE_1)})
    assert one.key == "table1"
    assert one.cell("CTransPath", "TCGA AUROC").shown() == "0.830 ± 0.050 (0.810-0.860)"
    assert [cell.verdict for cell in one.cells] == [AGREES, AGREES]


def test_encoders_as_the_paper_prints_them():
    one = encoder_table("patch", make_rows("patch", SMALL, (), ()))
    assert one.rows == SMALL
    assert {cell.verdict for cell in one.cells if cell.column != "Width"} == {AGREES}
    assert "slip" in one.cell("ResNet50", "Width").why
    assert one.cell("DINOv2 ViT-S", "Parameters (M)").published() == "21 M"


def test_what_others_report_is_compared_with_our_linear_score():
    one = others_table(rows(), {"uni": results("c", 0.93)})
    cell = one.cell("UNI", "eva")
    assert cell.ours == pytest.approx(0.95) and cell.verdict == AGREES
    assert one.cell("UNI", "UNI, Raw").verdict == NOT_COMPARED
    assert one.cell("UNI2-h", "eva").why == "uni2_h was not run" and not holes([one])


def test_all_three_files_are_written(tmp_path):
    write_all(tmp_path, table())
    lines = lines_of(tmp_path / "table2.csv")
    assert len(lines) == 24 and lines[0]["published"] == "0.88" and lines[0]["ours"] == "0.885"
    text = (tmp_path / "table2.md").read_text()
    assert "| CTransPath | 0.95 | hole | hole |" in text and "- CTransPath (20-NN ACC, 20-NN F1" in text
    with Image.open(tmp_path / "table2.png") as picture:
        assert picture.width > 800


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chosen": ("ResNet",)}, "did you mean 'ResNet50'"),
        ({"encoders": ("uni", "UNI")}, "UNI is named twice"),
        ({"weights": ("ResNet50",)}, "expected ROW=FILE"),
        ({"weights": ("uni=a.pth",)}, "'uni' is no row"),
    ],
)
def test_rows_that_cannot_be(changes, said):
    with pytest.raises(UserError, match=said):
        make_rows("patch", **({"chosen": (), "encoders": (), "weights": ()} | changes))


def run_folder(path):
    (path / "config.json").parent.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    for name, step in (("export", 30), ("export/step_0000010", 10)):
        (path / name).mkdir(parents=True)
        (path / name / "card.json").write_text(json.dumps({"steps": step, "weights": []}))
    for step in (10, 20):
        (path / "checkpoints" / str(step) / "state").mkdir(parents=True)
        (path / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").write_text("")
    (path / "checkpoints" / "25" / "state").mkdir(parents=True)  # cut short
    return path


def test_the_points_of_a_training(tmp_path):
    run = run_folder(tmp_path / "run")
    found = {point.step: str(point.path.relative_to(run)) for point in points_of(str(run))}
    assert found == {10: "export/step_0000010", 20: "checkpoints/20", 30: "export"}
    with pytest.raises(UserError, match="not the folder of a training"):
        points_of(str(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no exported weights"):
        points_of(str(empty))


def test_the_figure_has_the_two_points_of_the_paper(tmp_path):
    points = {0: results("a", 0.88), 1000: results("b", 0.92), 3000: "damaged"}
    cells = cells_of(points, "DINOv2 ViT-S finetuned")
    found = {(cell.row, cell.column): cell for cell in cells}
    assert found["step 0", "20-NN ACC"].verdict == AGREES
    assert found["step 1,000", "20-NN ACC"].verdict == NO_NUMBER
    assert (found["step 2,000", "20-NN ACC"].paper, found["step 2,000", "20-NN ACC"].why) == (0.94, "no weights of it")
    assert found["step 3,000", "Linear ACC"].why == "damaged"
    write_figure(tmp_path, cells, "Figure 2")
    assert (tmp_path / "figure2.png").stat().st_size > 10_000
    assert len(lines_of(tmp_path / "figure2.csv")) == 8
    assert all(cell.paper is None for cell in cells_of(points, "my own"))
