import json

import pytest
from PIL import Image
from pyramids import picture, write_pyramid

from histojax import slide_info
from histojax.__main__ import main

IMAGE = picture(700, 500)


@pytest.fixture
def folder(tmp_path):
    write_pyramid(tmp_path / "one.svs", IMAGE)
    write_pyramid(tmp_path / "two.svs", IMAGE, None, (1, 2.5), compression="deflate", power=None)
    return tmp_path


def test_one_slide_is_shown_in_full(folder, capsys):
    assert main(["slide-info", str(folder / "one.svs")]) == 0
    text = capsys.readouterr().out
    for words in (
        "format      aperio",
        "size        700x500 px, 0.17 x 0.12 mm",
        "mpp         0.25, metadata (openslide.mpp-x)",
        "objective   40x",
        "level 1     175x125 px, downsample 4, 1 mpp, tiles of 240x240 px, JPEG",
        "decoder     JPEG tiles decoded directly",
        "associated  none",
    ):
        assert words in text


def test_several_are_a_table_with_notes(folder, capsys):
    (folder / "bad.svs").write_text("no slide")
    assert slide_info.main([str(folder)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == "name format size mpp from objective downsamples decoder associated".split()
    assert lines[1].startswith("one   aperio  700x500  0.25") and " 1 4 " in lines[1]
    assert lines[2].startswith("two   aperio  700x500  unknown  -") and lines[2].split()[-3:] == [
        "2.5",
        "OpenSlide",
        "-",
    ]
    assert "two: its metadata give no mpp" in lines[3]
    assert "bad.svs: a text file, not a slide" in err


def test_slides_of_one_name_are_shown_both(folder, capsys):
    (folder / "copy").mkdir()
    (folder / "copy" / "one.svs").symlink_to(write_pyramid(folder / "copy" / "three.svs", IMAGE))
    assert slide_info.main([str(folder)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:4]] == ["one", "one", "two"]


def test_json_is_for_programs(folder, capsys):
    assert slide_info.main([str(folder / "two.svs"), "--mpp", "0,5", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["mpp"], facts["mpp_from"], facts["objective_power"]) == (0.5, "given", None)
    assert facts["levels"][1]["mpp"] == pytest.approx(1.25) and facts["levels"][0]["tile"] == [240, 240]
    assert facts["decoder"].startswith("OpenSlide (compression")


def test_a_table_gives_mpp(folder, capsys):
    (folder / "list.csv").write_text("slide,mpp\ntwo.svs,0.5\n")
    assert slide_info.main([str(folder / "list.csv")]) == 0
    assert "mpp         0.5, given" in capsys.readouterr().out


def test_slides_of_a_table_that_are_missing_are_named(folder, capsys):
    (folder / "list.csv").write_text("slide,stage\none.svs,2\ngone.svs,3\n")
    assert slide_info.main([str(folder / "list.csv")]) == 1
    out, err = capsys.readouterr()
    assert "name        one" in out and "gone.svs: does not exist" in err and "columns not used: stage" in err


def test_associated_images_are_saved_on_request(folder, capsys, monkeypatch):
    from histojax.slides.openslide_file import OpenslideFile

    monkeypatch.setattr(OpenslideFile, "associated", lambda self: {"label": (30, 20)})
    monkeypatch.setattr(OpenslideFile, "associated_image", lambda self, name: IMAGE[:20, :30])
    assert slide_info.main([str(folder / "one.svs"), "--associated", str(folder / "looks")]) == 0
    assert "label 30x20 px (labels may show a patient's name)" in capsys.readouterr().out
    with Image.open(folder / "looks" / "one_label.png") as image:
        assert image.size == (30, 20)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.svs"], "none.svs: does not exist"),
        (["a.svs", "--mpp", "250"], "--mpp 250 is not between 0.05 and 20 micrometres per pixel (are these nano"),
        (["a.svs", "--jsn"], "did you mean --json?"),
        ([], "SLIDES"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    assert slide_info.main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_help_teaches(capsys):
    assert slide_info.main(["--help"]) == 0
    assert "examples:" in capsys.readouterr().out
