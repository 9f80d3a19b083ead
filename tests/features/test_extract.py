"""Extraction from slides, stores and folders: the encoder's own numbers, whatever the batches, kills and partitions."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from deadly_reader import Deadly
from PIL import Image
from tiny_encoders import TILE, encoder, picture, write_slide

from histojax.common.errors import UserError
from histojax.common.locks import try_lock
from histojax.data.sources import open_source
from histojax.data.store import COORDINATES, PIXELS, Tile, finish_store, start_store, write_part
from histojax.data.subset import write_subset
from histojax.features import extract as flow
from histojax.features.asked import by_missing
from histojax.features.device import Devices, Model
from histojax.features.extract import extract
from histojax.features.finished import Written
from histojax.features.folder import JobFolder, geometry_name
from histojax.features.jobs import find_work
from histojax.features.read import read_coords, read_features, read_header, read_tokens
from histojax.features.stored import Geometry
from histojax.features.summary import joined
from histojax.slides.settings import TileSettings
from histojax.slides.slide import open_slide

SETTINGS = TileSettings(tile_px=TILE, mpp=1.0, tissue="none", checks=())
ONE = [jax.devices()[0]]


@pytest.fixture(scope="module")
def tiny():
    return encoder()


@pytest.fixture
def slides(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, size in enumerate([(4, 3), (2, 2), (3, 1)]):
        write_slide(folder / f"s{number}.png", size, number)
    return folder


def job(slides, out, models, settings=SETTINGS, save="float32", kind="slides", work=None, **options):
    """The summary of an extraction in this process."""
    specs = [slides] if isinstance(slides, (str, Path)) else slides
    work = work or find_work([str(one) for one in specs], settings, 1.0, kind)
    models = [Model(*one) if isinstance(one, tuple) else one for one in models]
    written = Written(JobFolder(Path(out), geometry_name(work.geometry)), work, save)
    written.begin(models)
    where = Devices(models, options.pop("batch_size", 5), options.pop("devices", ONE))
    summary = extract(work, where, written, **{"workers": 0, "show": False, **options})
    where.close()
    written.folder.summarise(summary.reports)
    return summary


def files(out):
    """{path: bytes} of everything that is not hidden."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def tiles_of(path):
    with open_slide(path, 1.0) as slide:
        width, height = slide.size
        places = [(x, y) for y in range(0, height, TILE) for x in range(0, width, TILE)]
        return np.stack(list(slide.tiles(places, TILE, 1.0))), np.array(places)


def test_features_are_those_of_the_encoder(tmp_path, slides, tiny):
    summary = job(slides, tmp_path / "out", [("tiny", tiny)])
    base = tmp_path / "out" / "10x_32px_0px_overlap"
    for number in range(3):
        tiles, places = tiles_of(slides / f"s{number}.png")
        found = read_features(base / "features_tiny" / f"s{number}.h5")
        np.testing.assert_allclose(found.features, tiny(tiles), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found.coords, places)
        np.testing.assert_array_equal(read_coords(base / "patches" / f"s{number}_patches.h5")[0], places)
        g = found.geometry
        assert (g.tile_px, g.mpp, g.footprint_px, g.slide_mpp, g.overlap_px) == (TILE, 1.0, 32.0, 1.0, 0)
        assert g.slide_mpp_from == "given" and found.origin.weights_sha256 == "random-0"
        assert found.origin.preprocess_sha256 == tiny.preprocess_hash and found.origin.read_from == "slides"
    assert summary.tiles == 12 + 4 + 3 and summary.count("done") == 3 and summary.before == 0
    rows = (base / "slides.csv").read_text().splitlines()
    assert rows[1] == f"s0,{slides / 's0.png'},12,0,0,done,,," and len(rows) == 4
    assert len((base / "failed.csv").read_text().splitlines()) == 1
    assert json.loads((base / "extract.json").read_text())["encoders"]["tiny"]["weights_sha256"] == "random-0"


def test_batches_neighbours_and_workers_change_nothing(tmp_path, slides, tiny, monkeypatch):
    job(slides, tmp_path / "a", [("tiny", tiny)])
    for number, path in enumerate(sorted(slides.iterdir())[::-1]):  # one after the other, in another order
        job(path, tmp_path / "b", [("tiny", tiny)], shard=(0, 1))
        assert len(files(tmp_path / "b")) == 3 + 4 * (number + 1)
    monkeypatch.setattr(flow, "CHUNKS_AHEAD", 1)
    job(slides, tmp_path / "c", [("tiny", tiny)], workers=2)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")


def test_a_batch_is_split_over_devices(tmp_path, slides, tiny):
    job(slides, tmp_path / "a", [("tiny", tiny)], batch_size=2)
    job(slides, tmp_path / "b", [("tiny", tiny)], batch_size=8, devices=jax.devices()[:4])
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_several_encoders_in_one_pass(tmp_path, slides, tiny, monkeypatch):
    other, large = encoder("other", 1), encoder("large", 2, side=42, pooling="cls+mean")
    models = [("tiny", tiny), ("other", other), ("large", large)]
    assert len(Devices([Model(*one) for one in models], 4, ONE).rules) == 2  # prepared once for those that agree
    job(slides, tmp_path / "a", models)
    for name, one in models:
        job(slides, tmp_path / "b", [(name, one)])  # another pass adds an encoder
    assert files(tmp_path / "a") == files(tmp_path / "b")
    found = read_features(tmp_path / "a/10x_32px_0px_overlap/features_large/s1.h5")
    np.testing.assert_allclose(found.features, large(tiles_of(slides / "s1.png")[0]), rtol=1e-5, atol=1e-5)


def test_patch_tokens(tmp_path, slides, tiny):
    job(slides, tmp_path, [Model("tiny", tiny, True)], save="float16")
    path = tmp_path / "10x_32px_0px_overlap/features_tiny/s0.h5"
    tiles, _ = tiles_of(slides / "s0.png")
    assert read_header(path).tokens == (4, 32) and read_header(path).grid == (2, 2)
    np.testing.assert_allclose(read_tokens(path), tiny.tokens(tiles), atol=2e-3)
    np.testing.assert_allclose(read_features(path).features, tiny(tiles), atol=2e-3)


def test_finished_slides_are_left_alone_and_half_done_ones_redone(tmp_path, slides, tiny, monkeypatch):
    other = encoder("other", 1)
    job(slides, tmp_path / "a", [("tiny", tiny), ("other", other)])
    job(slides, tmp_path / "b", [("tiny", tiny), ("other", other)])
    base = tmp_path / "b/10x_32px_0px_overlap"
    (base / "features_tiny/s1.h5").unlink()
    (base / "features_other/s2.h5").unlink()
    (base / "features_other/.s2.h5.123.tmp").write_bytes(b"half")
    (base / ".locks/s2.lock").write_text("process 1 on a machine that died")
    kept = {path: path.stat().st_mtime_ns for path in base.rglob("*.h5")}
    summary = job(slides, tmp_path / "b", [("tiny", tiny), ("other", other)])
    assert summary.before == 1 and summary.tiles == 4 + 3
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert not list(base.rglob("*.tmp")) and not list((base / ".locks").iterdir())
    monkeypatch.setattr(Devices, "warm_up", lambda *_: pytest.fail("nothing is left to do"))
    assert job(slides, tmp_path / "b", [("tiny", tiny), ("other", other)]).before == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(models=[("tiny", "seed 1")]), r"tiny.*weights was 'random-0' and is 'random-1'"),
        (dict(settings=dataclasses.replace(SETTINGS, seed=1)), r"selection.*seed was 0 and is 1"),
        (dict(save="float16"), "save was 'float32' and is 'float16'"),
    ],
)
def test_another_extraction_is_refused_by_name(tmp_path, slides, tiny, change, message):
    job(slides, tmp_path, [("tiny", tiny)])
    before = files(tmp_path)
    if "models" in change:
        change = {"models": [("tiny", encoder(seed=1))]}
        message = r"weights_sha256 was 'random-0' and is 'random-1'"
    with pytest.raises(UserError, match=message):
        job(slides, tmp_path, **{"models": [("tiny", tiny)], **change})
    assert files(tmp_path) == before


def test_a_file_of_other_weights_is_never_overwritten(tmp_path, slides, tiny):
    job(slides, tmp_path, [("tiny", tiny)])
    base = tmp_path / "10x_32px_0px_overlap"
    (base / "extract.json").unlink()
    with pytest.raises(UserError, match=r"s0\.h5: was extracted with another weights: random-0, now random-1"):
        job(slides, tmp_path, [("tiny", encoder(seed=1))])
    with h5py.File(base / "features_tiny/s0.h5", "a") as file:
        del file["features"]
        file["features"] = np.zeros((3, 32), np.float32)
    (base / "extract.json").unlink()
    with pytest.raises(UserError, match=r"s0\.h5: has 3 rows .* there are 12 tiles"):
        job(slides, tmp_path, [("tiny", tiny)])


def test_a_slide_that_is_another_now_fails_alone(tmp_path, slides, tiny):
    job(slides, tmp_path, [("tiny", tiny)])
    was = files(tmp_path / "10x_32px_0px_overlap/features_tiny")
    content = bytearray((slides / "s1.png").read_bytes())
    content[200] ^= 1
    (slides / "s1.png").write_bytes(content)  # of one size
    summary = job(slides, tmp_path, [("tiny", tiny)])
    assert [report.state for report in summary.reports] == ["done", "failed", "done"] and summary.before == 2
    assert "has features of another slide called s1" in summary.reports[1].reason
    other = find_work([str(slides)], SETTINGS, 0.5, "slides")  # another --mpp
    summary = job(slides, tmp_path, [("tiny", tiny)], work=other)
    assert all("its mpp: 1.0, now 0.5" in report.reason for report in summary.reports[::2])
    assert files(tmp_path / "10x_32px_0px_overlap/features_tiny") == was


@pytest.mark.parametrize("place", ["features_tiny/s0.h5", "patches/s0_patches.h5"])
def test_a_damaged_file_is_moved_aside_and_made_anew(tmp_path, slides, tiny, place):
    job(slides, tmp_path, [("tiny", tiny)])
    was, path = files(tmp_path), tmp_path / "10x_32px_0px_overlap" / place
    for number in ("", "1"):
        path.write_bytes(path.read_bytes()[:-100])
        summary = job(slides, tmp_path, [("tiny", tiny)])
        aside = path.with_name(f"{path.name}.damaged{number}")
        assert any(aside.name in note and "damaged or truncated" in note for note in summary.notes)
        there = files(tmp_path)
        assert there.pop(str(aside.relative_to(tmp_path))) == path.read_bytes()[:-100]
        assert {name: there[name] for name in was} == was
    path.write_text("notes of mine")
    with pytest.raises(UserError, match="expected a feature file"):
        job(slides, tmp_path, [("tiny", tiny)])
    assert path.read_text() == "notes of mine"


def test_an_encoder_that_is_added_later_is_computed_alone(tmp_path, slides, tiny):
    both = [Model("tiny", tiny), Model("other", encoder("other", 1))]
    job(slides, tmp_path / "a", both)
    job(slides, tmp_path / "b", both[:1])
    path = tmp_path / "b/10x_32px_0px_overlap/features_tiny/s1.h5"
    path.write_bytes(path.read_bytes()[:-1])
    work = find_work([str(slides)], SETTINGS, 1.0, "slides")
    written = Written(JobFolder(tmp_path / "b", geometry_name(work.geometry)), work)
    parts = by_missing(written, both, work.jobs)
    assert [([one.name for one in lacking], [one.name for one in jobs]) for lacking, jobs in parts] == [
        (["other"], ["s0", "s2"]),
        (["tiny", "other"], ["s1"]),
    ]
    found = []
    for lacking, jobs in parts:
        part = dataclasses.replace(work, jobs=tuple(jobs))
        found.append(job(slides, tmp_path / "b", lacking, work=part, wanted=both))
    summary = joined(found, work.jobs)
    assert [report.slide for report in summary.reports] == ["s0", "s1", "s2"] and summary.tiles == 19
    (tmp_path / "b/10x_32px_0px_overlap/features_tiny/s1.h5.damaged").unlink()
    assert files(tmp_path / "b") == files(tmp_path / "a")
    assert by_missing(written, both, work.jobs) == [(tuple(both), list(work.jobs))]


def test_a_picture_and_the_outlines_lie_beside(tmp_path, slides, tiny):
    image = picture(4 * TILE, 2 * TILE)
    image[:TILE, :TILE] = 240
    Image.fromarray(image).save(slides / "s1.png")
    Image.fromarray(np.full_like(image, 240)).save(slides / "s2.png")
    settings = dataclasses.replace(SETTINGS, checks=("blank",))
    summary = job(slides, tmp_path / "once", [("tiny", tiny)], settings)
    assert summary.reports[2].reason == "no tile is left (8 blank)"
    base = tmp_path / "once/10x_32px_0px_overlap"
    for name in ("s0", "s1", "s2"):  # the last one has no tile left
        with Image.open(base / "visualization" / f"{name}.jpg") as shown:
            assert min(shown.size) > 700
        assert json.loads((base / "contours_geojson" / f"{name}.geojson").read_text())["features"]
    job(slides, tmp_path / "twice", [("tiny", tiny)], settings, workers=1)
    assert files(tmp_path / "once") == files(tmp_path / "twice")


def test_bad_tiles_and_bad_slides_are_named_and_survived(tmp_path, slides, tiny, monkeypatch):
    (slides / "empty.png").write_bytes(b"")
    (slides / "text.png").write_text("no picture")
    Image.fromarray(np.full((96, 96, 3), 255, np.uint8)).save(slides / "white.png")
    settings = dataclasses.replace(SETTINGS, tissue="otsu", min_piece_um2=0, max_hole_um2=0, open_um=0)
    names = [slides / name for name in ("empty.png", "s0.png", "s1.png", "text.png", "white.png")]
    spoilt = flow.Reader._tiles

    def tiles(self, chunk):
        from histojax.slides.slide import BadSlide

        for place, tile in enumerate(spoilt(self, chunk)):
            wrong = chunk.entry.name == "s0" and place in (3, 7)
            yield BadSlide(chunk.entry.path, "the JPEG is damaged") if wrong else tile

    monkeypatch.setattr(flow.Reader, "_tiles", tiles)
    summary = job(names, tmp_path / "out", [("tiny", tiny)], settings)
    states = {report.slide: (report.state, report.tiles, report.skipped) for report in summary.reports}
    assert states["s0"] == ("done", 10, 2) and states["s1"] == ("done", 4, 0) and states["white"][0] == "no tile"
    assert states["empty"][0] == states["text"][0] == "failed"
    base = tmp_path / "out/10x_32px_0px_overlap"
    failed = (base / "failed.csv").read_text()
    assert "an empty file (0 bytes)" in failed and "white" in failed and "s1" not in failed
    path = base / "features_tiny/s0.h5"
    assert read_header(path).skipped == 2 and len(read_coords(base / "patches/s0_patches.h5")[0]) == 12
    with h5py.File(path) as file:
        assert file["skipped"].asstr()[0] == "the JPEG is damaged"
        assert file["skipped_coords"][:].tolist() == [[96, 0], [96, 32]]
    assert sorted(path.name for path in (base / "features_tiny").iterdir()) == ["s0.h5", "s1.h5"]
    assert job(names, tmp_path / "out", [("tiny", tiny)], settings).before == 2  # the others are tried again


def test_a_slide_that_kills_its_readers_is_quarantined(tmp_path, slides, tiny, monkeypatch):
    write_slide(slides / "s1.png", (20, 20))  # seven chunks, of which one is tried three times, and then no other
    monkeypatch.setattr(flow, "Reader", Deadly)
    monkeypatch.setattr(flow, "CHUNKS_AHEAD", 1)
    summary = job(sorted(slides.iterdir()), tmp_path / "out", [("tiny", tiny)], workers=1)
    assert [report.state for report in summary.reports] == ["done", "quarantined", "done"]
    assert "3 processes that worked on it ended (SIGKILL" in summary.reports[1].reason
    assert len((slides / "s1.tries").read_text()) <= 6


def test_tiles_that_fail_the_checks_are_left_out(tmp_path, tiny):
    image = picture(4 * TILE, 2 * TILE)
    image[:TILE, :TILE] = 240
    Image.fromarray(image).save(tmp_path / "a.png")
    settings = dataclasses.replace(SETTINGS, checks=("blank",))
    summary = job(tmp_path / "a.png", tmp_path / "out", [("tiny", tiny)], settings)
    assert (summary.reports[0].tiles, summary.reports[0].rejected) == (7, 1)
    base = tmp_path / "out/10x_32px_0px_overlap"
    assert len(read_coords(base / "patches/a_patches.h5")[0]) == 7
    assert read_header(base / "features_tiny/a.h5").rejected == 1
    assert job(tmp_path / "a.png", tmp_path / "out", [("tiny", tiny)], settings).before == 1


def make_store(root, slides, kind):
    """A store of the slides' tiles, cut with SETTINGS."""
    plan = {"settings": SETTINGS.as_dict(), "image": "png", "quality": None}
    start_store(root, plan, kind)
    names = []
    for path in sorted(slides.glob("s*.png")):
        tiles, places = tiles_of(path)
        data = [b"" if kind == COORDINATES else encoded(tile) for tile in tiles]
        rows = [Tile(one, "", path.stem, int(x), int(y)) for one, (x, y) in zip(data, places)]
        facts = {"path": str(path), "mpp": 1.0, "mpp_from": "given", "footprint": 32.0, "rejected": {"blur": 2}}
        facts |= {"patient": f"P{path.stem}", "label": "MSI"}
        write_part(root, path.stem, rows, {**facts, "width": 128, "height": 96}, coordinates=kind == COORDINATES)
        names.append(path.stem)
    finish_store(root, names)
    return root


def encoded(tile):
    from histojax.data.decode import encode_png

    return encode_png(tile)


@pytest.mark.parametrize("kind", [PIXELS, COORDINATES])
def test_stores_give_the_features_of_their_slides(tmp_path, slides, tiny, kind):
    store = make_store(tmp_path / "store", slides, kind)
    summary = job(store, tmp_path / "a", [("tiny", tiny)], kind="auto")
    job(slides, tmp_path / "b", [("tiny", tiny)])
    assert summary.tiles == 19
    for number in range(3):
        one, other = (
            read_features(tmp_path / where / "10x_32px_0px_overlap/features_tiny" / f"s{number}.h5") for where in "ab"
        )
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.coords, other.coords)
        assert one.origin.read_from == ("slides" if kind == COORDINATES else "store (png)")
        assert one.origin.selection_sha256 == other.origin.selection_sha256
    again = job(store, tmp_path / "a", [("tiny", tiny)], kind="auto")
    assert again.before == 3 and again.reports == summary.reports
    assert (again.reports[1].rejected, again.reports[1].patient, again.reports[1].label) == (2, "Ps1", "MSI")


@pytest.fixture
def patches(tmp_path):
    """A folder with two classes and a patch that cannot be read."""
    folder = tmp_path / "patches"
    for number, name in enumerate(["ADI", "ADI", "TUM", "TUM"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(TILE, TILE, number)).save(folder / name / f"{number}.png")
    (folder / "TUM/broken.png").write_bytes((folder / "TUM/2.png").read_bytes()[:100])
    return folder


@pytest.mark.parametrize("kind", [PIXELS, COORDINATES])
def test_a_list_of_kept_tiles_keeps_slides_apart(tmp_path, slides, tiny, kind):
    """What an audit writes: the features of the tiles it keeps, a file a slide."""
    store = open_source(make_store(tmp_path / "store", slides, kind))
    kept = np.array([0, 2, 3, 12, 18])  # 12 tiles of s0, 4 of s1, 3 of s2
    write_subset(tmp_path / "kept.csv", [(str(tmp_path / "store"), store, kept)])
    job(tmp_path / "store", tmp_path / "all", [("tiny", tiny)], kind="auto")
    job(tmp_path / "kept.csv", tmp_path / "some", [("tiny", tiny)], kind="auto")
    found, whole = (
        [read_features(tmp_path / out / f"10x_32px_0px_overlap/features_tiny/s{n}.h5") for n in range(3)]
        for out in ("some", "all")
    )
    for one, other, rows in zip(found, whole, ([0, 2, 3], [0], [2])):
        np.testing.assert_array_equal(one.coords, other.coords[rows])
        np.testing.assert_array_equal(one.features, other.features[rows])
    with pytest.raises(UserError, match=r"begun with another selection \(kept was"):
        job(tmp_path / "kept.csv", tmp_path / "all", [("tiny", tiny)], kind="auto")


def test_labelled_patches_make_one_file(tmp_path, patches, tiny):
    summary = job(patches, tmp_path / "out", [("tiny", tiny)], kind="auto")
    found = read_features(tmp_path / "out/features_tiny/patches.h5")
    assert found.names.tolist() == ["ADI/0.png", "ADI/1.png", "TUM/2.png", "TUM/3.png"]
    assert found.header.classes == ("ADI", "TUM") and found.labels.tolist() == [0, 0, 1, 1]
    tiles = np.stack([picture(TILE, TILE, number) for number in range(4)])
    np.testing.assert_allclose(found.features, tiny(tiles), rtol=1e-5, atol=1e-5)
    assert found.coords is None and (summary.reports[0].tiles, summary.reports[0].skipped) == (4, 1)
    with h5py.File(tmp_path / "out/features_tiny/patches.h5") as file:
        assert "TUM/broken.png: damaged image" in file["skipped"].asstr()[0]
    assert job(patches, tmp_path / "out", [("tiny", tiny)], kind="auto").before == 1


@pytest.mark.parametrize(("reading", "computing", "least", "most"), [(0.02, 0.0, 0.6, 1.0), (0.0, 0.02, 0.0, 0.3)])
def test_the_share_of_waiting_is_true(tmp_path, slides, tiny, monkeypatch, reading, computing, least, most):
    """A slow disk makes the device wait, a slow device does not."""
    read, fetch = flow.Reader.__call__, Devices._fetch
    monkeypatch.setattr(flow, "CHUNK_BYTES", 1)
    monkeypatch.setattr(flow.Reader, "__call__", lambda self, chunk: (time.sleep(reading), read(self, chunk))[1])
    monkeypatch.setattr(Devices, "_fetch", lambda self, outputs: (time.sleep(computing), fetch(self, outputs))[1])
    write_slide(slides / "s1.png", (8, 5), 1)
    summary = job(slides, tmp_path, [("tiny", tiny)], batch_size=1)
    assert summary.tiles == 55 and least <= summary.waited <= most


@pytest.mark.parametrize("text", ["a,b\n", "a,b\n1,2\n", "slide,path,tiles\ns0,x,many\n"])
def test_a_table_of_somebody_else_is_refused_at_once(tmp_path, slides, tiny, text):
    base = tmp_path / "10x_32px_0px_overlap"
    base.mkdir()
    (base / "slides.csv").write_text(text)
    with pytest.raises(UserError, match=r"slides\.csv: cannot be read .*; move it away and run again"):
        job(slides, tmp_path, [("tiny", tiny)])
    assert (base / "slides.csv").read_text() == text and not list(tmp_path.rglob("*.h5"))


def test_progress_goes_on_within_a_slide(tmp_path, slides, tiny, monkeypatch):
    steps = []
    monkeypatch.setattr(flow.Progress, "update", lambda self, step, *_: steps.append(step))
    job(slides / "s0.png", tmp_path, [("tiny", tiny)], batch_size=3)
    assert steps == sorted(steps) and 0.25 in steps and max(steps) == 1


def test_shards_do_every_slide_once(tmp_path, slides, tiny):
    done = [job(slides, tmp_path / "a", [("tiny", tiny)], shard=(i, 2)) for i in range(2)]
    assert [summary.tiles for summary in done] == [12 + 3, 4] and not sum(summary.before for summary in done)
    job(slides, tmp_path / "b", [("tiny", tiny)])
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_slide_that_another_job_holds_is_waited_for(tmp_path, slides, tiny, monkeypatch):
    job(slides, tmp_path / "a", [("tiny", tiny)])
    folder = JobFolder(tmp_path / "b", "10x_32px_0px_overlap")
    folder.make(["tiny"], True)
    lock = try_lock(folder.lock("s1"))
    made = folder.features("tiny", "s1")

    def other_job_ends(_):
        pictures = ("visualization/s1.jpg", "contours_geojson/s1.geojson")
        for name in (*pictures, "patches/s1_patches.h5", "features_tiny/s1.h5"):
            shutil.copy(tmp_path / "a" / folder.inner / name, folder.base / name)
        lock.release()

    monkeypatch.setattr(flow.time, "sleep", other_job_ends)
    summary = job(slides, tmp_path / "b", [("tiny", tiny)])
    assert summary.before == 1 and summary.tiles == 15 and made.exists()
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_out_of_memory_halves_the_batch(tmp_path, slides, tiny, monkeypatch):
    real, sizes = Devices.start, []

    def start(self, batch):
        sizes.append(self.size)
        if self.size > 2 and len(sizes) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return real(self, batch)

    monkeypatch.setattr(Devices, "start", start)
    job(slides, tmp_path / "a", [("tiny", tiny)], batch_size=8)
    assert sizes[:5] == [8, 8, 8, 4, 2] and set(sizes[4:]) == {2}
    monkeypatch.undo()
    job(slides, tmp_path / "b", [("tiny", tiny)], batch_size=2)
    for name, data in files(tmp_path / "b").items():
        if name.endswith(".h5"):
            assert len(files(tmp_path / "a")[name]) == len(data)


def test_no_memory_for_one_tile_is_said(tiny, monkeypatch):
    devices = Devices([Model("tiny", tiny)], 2, ONE)
    monkeypatch.setattr(Devices, "start", lambda *_: (_ for _ in ()).throw(RuntimeError("RESOURCE_EXHAUSTED")))
    said = []
    with pytest.raises(UserError, match="not even one tile fits into the memory"):
        devices.warm_up(said.append)
    assert said == ["out of memory on the device: batches of 1 tiles from here on"]


def test_a_full_disk_stops_by_name_and_the_next_start_goes_on(tmp_path, slides, tiny):
    write_slide(slides / "s1.png", (40, 30), 5)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(UserError, match=r"visualization/s0\.jpg: cannot be written"):
            job(slides, tmp_path / "a", [("tiny", tiny)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "a").rglob("*.tmp")) and not list((tmp_path / "a").rglob("s1.h5"))
    job(slides, tmp_path / "a", [("tiny", tiny)])
    job(slides, tmp_path / "b", [("tiny", tiny)])
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_refused_at_once(tmp_path, slides, tiny):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot be made .*choose a folder you may write to"):
        job(slides, tmp_path / "out", [("tiny", tiny)])


def test_an_output_that_cannot_be_is_refused_at_once(tmp_path, slides, tiny):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*cannot be made \(Not a directory\)"):
        job(slides, tmp_path / "file", [("tiny", tiny)])


def test_numbers_that_are_not_finite_stop_by_name(tmp_path, slides, tiny):
    broken = encoder()
    broken.parameters = jax.tree.map(lambda x: x * np.nan, broken.parameters)
    with pytest.raises(UserError, match=r"s\d\.h5: the features of .* tiles are not finite"):
        job(slides, tmp_path, [("tiny", broken)])


def test_names_of_geometries():
    names = {mpp: geometry_name(Geometry(256, mpp, overlap_px=0)) for mpp in (1.0, 0.5, 1.14, 0.25)}
    assert names[1.0] == "10x_256px_0px_overlap" and names[0.5] == "20x_256px_0px_overlap"
    assert names[1.14] == "8.77x_256px_0px_overlap" and names[0.25] == "40x_256px_0px_overlap"
    assert (
        geometry_name(Geometry(512, 0.5, overlap_px=64)) == "20x_512px_64px_overlap" and geometry_name(Geometry()) == ""
    )
