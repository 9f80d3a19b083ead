"""Slides into a store: what is in it, what is said of slides that cannot be used, and that nothing is done twice."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from pyramids import picture, write_pyramid

from histojax import tile as command
from histojax.common.errors import UserError
from histojax.common.locks import try_lock
from histojax.data import cutting
from histojax.data.cut_slide import Cut, cut_slide
from histojax.data.cutting import cut_slides
from histojax.data.slide_list import SlideEntry, find_slides
from histojax.data.slide_marks import Marks
from histojax.data.slide_table import MISSING
from histojax.data.sources import open_source
from histojax.data.store import start_store
from histojax.slides.settings import TileSettings
from histojax.slides.slide import Slide, open_slide

TIMED = "summary"
SETTINGS = TileSettings(tile_px=64, mpp=1.0, checks=(), mask_mpp=4.0, min_piece_um2=0, open_um=0)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "TCGA-AA-0001-01Z.svs", picture(1303, 1001), mpp=0.5)
    write_pyramid(folder / "TCGA-AA-0002-01Z.svs", picture(900, 1100, seed=1), mpp=0.5)
    return folder


@pytest.fixture(scope="module")
def made(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "store"
    return out, cut(slides, out)


def cut(slides, out, workers=0, settings=SETTINGS, shard=(0, 1), **options):
    entries = find_slides([slides]).entries
    return cut_slides(entries, Cut(str(out), settings, **options), workers=workers, shard=shard)


def digests(folder):
    files = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(TIMED) and ".lock" not in str(p)
    ]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_a_store_says_what_was_cut_from_what(made, slides):
    out, summary = made
    assert summary.count("done") == 2 and not summary.failures
    source = open_source(str(out))
    assert len(source) == summary.written.tiles == sum(r.tiles for r in summary.reports) > 20
    assert source.facts.group_kind == "patient" and set(source.groups) == {"TCGA-AA-0001", "TCGA-AA-0002"}
    assert source.read(0).shape == (64, 64, 3)
    first, second = rows(out / "slides.csv")
    assert first["slide"] == "TCGA-AA-0001-01Z" and float(first["mpp"]) == 0.5 and first["width"] == "1303"
    assert int(first["tiles"]) + int(second["tiles"]) == len(source) == len(rows(out / "tiles.csv"))
    places = int(1303 / 128) * int(1001 / 128)
    assert int(first["tiles"]) + int(first.get("rejected_no tissue") or 0) == places
    for name in (first["slide"], second["slide"]):
        assert max(Image.open(out / "qc" / f"{name}.jpg").size) > 100
        assert json.loads((out / "contours_geojson" / f"{name}.geojson").read_text())["features"]
    assert json.loads((out / "summary.json").read_text())["tiles"] == len(source)


def test_tiles_are_the_slide_at_their_place(slides, tmp_path):
    cut(slides, tmp_path / "store", image="png")
    source = open_source(str(tmp_path / "store"))
    with open_slide(slides / "TCGA-AA-0001-01Z.svs") as slide:
        x, y = source.coords[3].tolist()
        np.testing.assert_array_equal(source.read(3), slide.tile(x, y, 64, 1.0))


def test_a_store_of_coordinates_gives_the_same_tiles(slides, tmp_path):
    settings = TileSettings(**SETTINGS.as_dict() | {"checks": ("blank",)})
    cut(slides, tmp_path / "pixels", image="png", settings=settings)
    cut(slides, tmp_path / "places", coordinates=True, settings=settings)
    pixels, places = (open_source(str(tmp_path / name)) for name in ("pixels", "places"))
    np.testing.assert_array_equal(pixels.coords, places.coords)
    for i in (0, 7, len(pixels) - 1):
        np.testing.assert_array_equal(pixels.read(i), places.read(i))
    assert not list((tmp_path / "places" / "tiles").iterdir())


def test_processes_shards_and_a_second_start_give_the_same_bytes(made, slides, tmp_path):
    expected = digests(made[0])
    cut(slides, tmp_path / "two", workers=2)
    assert digests(tmp_path / "two") == expected
    for index in (1, 0):
        cut(slides, tmp_path / "shards", shard=(index, 2))
    assert digests(tmp_path / "shards") == expected
    (tmp_path / "two" / "index.arrow").unlink()
    (tmp_path / "two" / "parts" / "TCGA-AA-0002-01Z.arrow").unlink()  # as if killed before this part was whole
    again = cut(slides, tmp_path / "two")
    assert (again.count("done"), again.count("done before")) == (1, 1) and digests(tmp_path / "two") == expected


def test_slides_that_cannot_be_used_are_named_and_the_others_are_cut(slides, tmp_path, capsys):
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "good.svs").symlink_to(slides / "TCGA-AA-0001-01Z.svs")
    (folder / "text.svs").write_text("this is no slide")
    (folder / "zero.svs").write_bytes(b"")
    write_pyramid(folder / "unknown.svs", picture(400, 400), mpp=None)
    blank = np.full((700, 700, 3), 243, np.uint8)
    write_pyramid(folder / "white.svs", blank, mpp=0.5)
    spoilt = {(0, 9): b"\xff\xd8 no jpeg"}
    write_pyramid(folder / "torn.svs", picture(1303, 1001), mpp=0.5, downsamples=(1,), spoil=spoilt)
    words = ["--out", str(tmp_path / "out"), "--tile-px", "64", "--checks", "none", "--workers", "1"]
    assert command.main([str(folder), *words, "--tissue", "none"]) == 1
    shown = capsys.readouterr().out
    assert "could not be used" in shown and "give it with --mpp" in shown and "unreadable" in shown
    skipped = {row["name"].rpartition("/")[2]: row["reason"] for row in rows(tmp_path / "out" / "skipped.csv")}
    assert "give it with --mpp" in skipped["unknown.svs"]
    assert {"text.svs", "unknown.svs"} < set(skipped) and any(name.startswith("torn.svs (x=") for name in skipped)
    tiles = {row["slide"]: int(row["tiles"]) for row in rows(tmp_path / "out" / "slides.csv")}
    assert tiles["good"] > tiles["torn"] > 0 and tiles["white"] > 0
    small = ["--out", str(tmp_path / "given"), "--mpp", "0.5", "--workers", "0"]
    assert command.main([str(folder / "unknown.svs"), *small[:2], *small[4:]]) == 2  # which binds nobody
    assert command.main([str(folder / "unknown.svs"), *small]) == 2
    assert "unknown.svs: has no tile (1 slide smaller than a tile)" in capsys.readouterr().err
    assert command.main([str(folder / "unknown.svs"), *small[:1], str(tmp_path / "ok"), *small[2:], *words[2:6]]) == 0


def test_a_slide_without_tissue_is_a_row_with_no_tiles(slides, tmp_path, capsys):
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "good.svs").symlink_to(slides / "TCGA-AA-0001-01Z.svs")
    write_pyramid(folder / "white.svs", np.full((700, 700, 3), 243, np.uint8), mpp=0.5)
    assert command.main([str(folder), "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert "no tile     white (1 no tissue)" in capsys.readouterr().out
    assert {r["slide"]: r["tiles"] for r in rows(tmp_path / "out" / "slides.csv")}["white"] == "0"


def test_a_table_gives_patients_mpp_and_labels(slides, tmp_path, capsys):
    write_pyramid(tmp_path / "unknown.svs", picture(1303, 1001), mpp=None)
    table = tmp_path / "cohort.csv"
    good = slides / "TCGA-AA-0001-01Z.svs"
    table.write_text(f"Case ID;Slide File;MPP;label\nP1;{good};;MSIH\nP2;unknown.svs;0,5;MSS\nP3;gone.svs;0,5;MSS\n")
    assert command.main([str(table), "--out", str(tmp_path / "out"), "--workers", "0", "--checks", "none"]) == 1
    assert "gone.svs" in capsys.readouterr().out
    first, second = rows(tmp_path / "out" / "slides.csv")
    assert (first["patient"], first["label"], first["mpp_from"][:8]) == ("P1", "MSIH", "metadata")
    assert (second["patient"], second["label"], second["mpp"], second["mpp_from"]) == ("P2", "MSS", "0.5", "given")
    source = open_source(str(tmp_path / "out"))
    assert source.classes == ("MSIH", "MSS") and source.facts.group_kind == "patient"


def test_what_every_job_of_an_array_left_out_is_named_until_it_is_cut(slides, tmp_path):
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "c"):
        (folder / f"{name}.svs").symlink_to(slides / "TCGA-AA-0001-01Z.svs")
    for name in ("b", "d", "e"):
        (folder / f"{name}.svs").write_text("no slide")
    entries = find_slides([folder]).entries
    aside = [("gone.svs", MISSING), ("notes.doc", "not slides")]
    for index in (1, 0):  # a c e; b d
        cut_slides(entries, Cut(str(out), SETTINGS), workers=0, shard=(index, 2), left_out=aside)
    assert [row["name"].rpartition("/")[2] for row in rows(out / "skipped.csv")] == "b.svs d.svs e.svs gone.svs".split()
    assert [row["name"] for row in rows(out / "left_out.csv")] == ["gone.svs", "notes.doc"]
    assert {path.name for path in out.glob("summary*")} == {"summary-1-of-2.json", "summary-2-of-2.json"}
    (folder / "b.svs").unlink()  # it was no slide, and is forgotten
    (folder / "d.svs").unlink()
    (folder / "d.svs").symlink_to(slides / "TCGA-AA-0002-01Z.svs")
    cut(folder, out)
    assert [row["name"].rpartition("/")[2] for row in rows(out / "skipped.csv")] == ["e.svs"]


def test_reasons_are_in_a_file_when_no_slide_can_be_used(tmp_path):
    for name, start in (("a", b"text"), ("b", b""), ("c", b"PK\3\4"), ("d", b"%PDF-1.4"), ("e", b"\x89HDF")):
        (tmp_path / f"{name}.svs").write_bytes(start)
    with pytest.raises(UserError, match=r"and 2 more reasons, see .*skipped\.csv"):
        cut(tmp_path, tmp_path / "out")
    assert len(rows(tmp_path / "out" / "skipped.csv")) == 5


def test_a_slide_coarser_than_the_tiles_has_no_places_either(slides, tmp_path):
    write_pyramid(tmp_path / "coarse.svs", picture(600, 600), mpp=2.0)
    entries = find_slides([tmp_path / "coarse.svs", slides]).entries
    settings = TileSettings(**SETTINGS.as_dict() | {"tissue": "none"})
    summary = cut_slides(entries, Cut(str(tmp_path / "out"), settings, coordinates=True), workers=0)
    assert [f.slide for f in summary.failures] == ["coarse"] and "coarser than the 1 asked" in summary.failures[0].why


def test_a_given_mpp_serves_slides_whose_metadata_are_implausible(tmp_path):
    write_pyramid(tmp_path / "zero.svs", picture(600, 600), mpp=0)
    write_pyramid(tmp_path / "known.svs", picture(600, 600), mpp=0.25)
    summary = cut(tmp_path, tmp_path / "out", mpp=0.5)
    known, zero = rows(tmp_path / "out" / "slides.csv")
    assert (known["mpp"], zero["mpp"], zero["mpp_from"]) == ("0.25", "0.5", "given") and not summary.failures
    assert "its metadata say mpp 0" in summary.reports[1].notes[0]


def test_a_slide_whose_name_is_no_utf8_is_one_row_and_read_again(slides, tmp_path):
    name = os.fsdecode(b"caf\xe9.svs")
    os.link(slides / "TCGA-AA-0001-01Z.svs", tmp_path / name)
    cut(tmp_path / name, tmp_path / "out", coordinates=True)
    assert len(rows(tmp_path / "out" / "slides.csv")) == 1
    assert open_source(str(tmp_path / "out")).read(0).shape == (64, 64, 3)


def test_a_slide_that_another_job_holds_is_waited_for(slides, tmp_path, monkeypatch):
    out = tmp_path / "store"
    cut(slides, out, shard=(0, 2))
    lock = try_lock(out / ".locks" / "TCGA-AA-0002-01Z.lock")
    monkeypatch.setattr(cutting.time, "sleep", lambda seconds: lock.release())
    summary = cut(slides, out)
    assert (summary.count("done"), summary.count("done before")) == (1, 1)


def test_another_slide_of_the_same_name_is_refused(made, slides, tmp_path):
    other = tmp_path / "TCGA-AA-0001-01Z.svs"
    write_pyramid(other, picture(500, 500, seed=3), mpp=0.5)
    summary = cut_slides([SlideEntry(other, other.stem)], Cut(str(made[0]), SETTINGS), workers=0)
    assert "another slide of this name" in summary.failures[0].why
    assert len(open_source(str(made[0]))) == made[1].written.tiles


@pytest.mark.parametrize("size", [None, 1000])
def test_a_shard_that_is_damaged_is_made_again(made, slides, tmp_path, size):
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    shard = out / "tiles" / "TCGA-AA-0001-01Z.arrayrecord"
    shard.unlink() if size is None else os.truncate(shard, size)
    with pytest.raises(UserError, match="or run the command that wrote it again"):
        open_source(str(out))
    summary = cut(slides, out)
    assert (summary.count("done"), summary.reports[0].notes) == (1, ("its shard in the store was damaged: cut again",))
    assert digests(out / "tiles") == digests(made[0] / "tiles") and len(open_source(str(out))) == summary.written.tiles


@pytest.mark.parametrize("change", ["file", "mpp", "annotation"])
def test_a_slide_that_would_be_cut_otherwise_by_now_is_named(tmp_path, change):
    write_pyramid(tmp_path / "a.svs", picture(700, 500), mpp=None)
    square = {"type": "Polygon", "coordinates": [[[0, 0], [600, 0], [600, 600], [0, 600]]]}
    (tmp_path / "a.geojson").write_text(json.dumps(square))
    marks, out = Marks(include=str(tmp_path / "a.geojson")), tmp_path / "out"
    cut(tmp_path / "a.svs", out, mpp=0.5, marks=marks)
    assert not cut(tmp_path / "a.svs", out, mpp=0.5, marks=marks).failures
    if change == "file":  # of the same size, as those that a copy fills later
        data = bytearray((tmp_path / "a.svs").read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        (tmp_path / "a.svs").write_bytes(data)
    if change == "annotation":
        (tmp_path / "a.geojson").write_text(json.dumps(square | {"coordinates": [[[0, 0], [300, 0], [300, 600]]]}))
    (failure,) = cut(tmp_path / "a.svs", out, mpp=0.25 if change == "mpp" else 0.5, marks=marks).failures
    words = {"file": "or an older state of it", "mpp": "with mpp 0.5 (given), and 0.25 is given now"}
    assert words.get(change, "its annotations have changed") in failure.why
    assert failure.why.endswith("a.arrow and it is cut anew")


def test_patients_and_labels_that_a_table_corrects_are_corrected_in_the_store(slides, tmp_path):
    path = slides / "TCGA-AA-0001-01Z.svs"
    entries = [SlideEntry(path, path.stem, patient="P1", label="MSS")]
    made = Cut(str(tmp_path / "out"), SETTINGS)
    cut_slides(entries, made, workers=0)
    shard = digests(tmp_path / "out" / "tiles")
    summary = cut_slides([SlideEntry(path, path.stem, patient="P2", label="MSI")], made, workers=0)
    assert summary.reports[0].notes == ("its patient was P1 and is P2 now", "its label was MSS and is MSI now")
    source = open_source(str(tmp_path / "out"))
    assert source.classes == ("MSI",) and set(source.groups) == {"P2"} and digests(tmp_path / "out" / "tiles") == shard
    cut_slides([SlideEntry(path, path.stem)], made, workers=0)  # what says nothing changes nothing
    assert rows(tmp_path / "out" / "slides.csv")[0]["patient"] == "P2"


def test_two_commands_with_different_settings_never_share_a_folder(slides, tmp_path):
    first, second = (Cut(str(tmp_path / "out"), dataclasses.replace(SETTINGS, mpp=mpp)) for mpp in (1.0, 2.0))
    start_store(tmp_path / "out", first.plan())
    start_store(tmp_path / "out", second.plan())  # the first has not cut a slide yet
    (tmp_path / "out" / ".locks").mkdir()
    path = slides / "TCGA-AA-0001-01Z.svs"
    with pytest.raises(UserError, match=r"settings\.mpp was 2\.0 and is 1\.0"):
        cut_slide((first, SlideEntry(path, path.stem)))
    assert not list((tmp_path / "out" / "parts").iterdir())


def test_other_settings_need_another_folder(made, slides):
    with pytest.raises(UserError, match=r"settings\.tile_px was 64 and is 32"):
        cut(slides, made[0], settings=TileSettings(tile_px=32, checks=()))


def test_annotations_say_where_tiles_may_lie(slides, tmp_path):
    ring = [[0, 0], [640, 0], [640, 1001], [0, 1001], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    for name in ("TCGA-AA-0001-01Z", "TCGA-AA-0002-01Z"):
        (tmp_path / f"{name}.geojson").write_text(json.dumps(feature))
    cut(slides, tmp_path / "in", marks=Marks(include=str(tmp_path)))
    cut(slides, tmp_path / "out", marks=Marks(exclude=str(tmp_path)))
    inside, outside = (open_source(str(tmp_path / name)).coords for name in ("in", "out"))
    assert inside[:, 0].max() < 640 <= outside[:, 0].min() + 16


def test_annotations_that_may_not_be_meant_are_noted(slides, tmp_path):
    def area(kind, x):
        ring = [[x, 0], [x + 400, 0], [x + 400, 900], [x, 900]]
        properties = {"classification": {"name": kind}}
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}

    (tmp_path / "a.geojson").write_text(json.dumps([area("Tumor", 0), area("Pen", 5000)]))
    marks = Marks(None, str(tmp_path / "a.geojson"), None, "Artefact")
    path = slides / "TCGA-AA-0001-01Z.svs"
    summary = cut(path, tmp_path / "class", marks=marks)
    assert summary.reports[0].notes == ("no annotation to exclude is of the class Artefact (there are: Pen, Tumor)",)
    beyond = cut(path, tmp_path / "beyond", marks=dataclasses.replace(marks, exclude_class=None)).reports[0].notes[0]
    assert beyond.startswith("1 of its 2 annotations to exclude lie beyond the slide of 1303x1001 px")
    (tmp_path / "p.geojson").write_text(json.dumps({"type": "Point", "coordinates": [3, 4]}))
    point = cut(path, tmp_path / "points", marks=Marks(exclude=str(tmp_path / "p.geojson"))).reports[0].notes[0]
    assert point.startswith("1 annotations to exclude are no areas (points")
    with pytest.raises(UserError, match=r"--include-class Tumor: of which annotations\? Name them with --include"):
        cut(path, tmp_path / "none", marks=Marks(include_class="Tumor"))
    with pytest.raises(UserError, match=r"expected a folder with one SLIDE\.geojson for each of the 2 slides"):
        cut(slides, tmp_path / "two", marks=marks)


def test_a_scanned_area_that_begins_aside_is_noted_where_annotations_count(slides, tmp_path, monkeypatch):
    known = property(lambda self: {"openslide.bounds-x": "0", "openslide.bounds-y": "81211"})
    monkeypatch.setattr(Slide, "properties", known)
    square = {"type": "Polygon", "coordinates": [[[0, 0], [900, 0], [900, 900], [0, 900]]]}
    (tmp_path / "a.geojson").write_text(json.dumps(square))
    path = slides / "TCGA-AA-0001-01Z.svs"
    summary = cut(path, tmp_path / "out", marks=Marks(include=str(tmp_path / "a.geojson")))
    assert summary.reports[0].notes[0].startswith("its scanned area does not begin at the corner of level 0")
    assert not cut(path, tmp_path / "all").reports[0].notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tile-px", "8"], "--tile-px"),
        (["--target-mpp", "nan"], "--target-mpp"),
        (["--shard", "3/2"], "--shard: expected I/N"),
        (["--mpp", "2.5e-7"], "metres"),
        (["--quality", "0"], "--quality: expected a whole number from 1 to 100"),
        (["--tile-pixels", "8"], "did you mean --tile-px?"),
    ],
)
def test_bad_flags_fail_before_anything_starts(slides, tmp_path, capsys, words, message):
    assert command.main([str(slides), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
