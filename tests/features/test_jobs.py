"""What `--input` means: slides, stores and patches told apart by looking; one job a file of features."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from pyramids import picture, write_pyramid
from tiny_encoders import write_slide

from histojax.common.errors import UserError
from histojax.data.store import Tile, finish_store, start_store, write_part
from histojax.features.jobs import find_work
from histojax.features.reading import Marks
from histojax.slides.settings import TileSettings

SETTINGS = TileSettings(tile_px=32, mpp=1.0)


def work(*specs, **options):
    return find_work([str(spec) for spec in specs], SETTINGS, **options)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("ADI/a.png", "TUM/b.png"):
        (folder / name).parent.mkdir(parents=True)
        write_slide(folder / name, (2, 2))
    return folder


def test_folders_of_images_are_patches_unless_said_otherwise(images):
    found = work(images)
    (job,) = found.jobs
    assert (job.name, job.count, job.labelled, job.planned) == ("images", 2, True, True)
    assert found.settings is None and found.read_from == "patches" and found.total == 2
    as_slides = work(images, kind="slides", mpp=1.0)
    assert [job.name for job in as_slides.jobs] == ["a", "b"] and as_slides.total is None and as_slides.check


def test_pyramids_are_slides_whatever_their_suffix(tmp_path):
    write_pyramid(tmp_path / "a.tif", picture(500, 400), mpp=0.5, vendor="generic")
    assert work(tmp_path).jobs[0].entry.name == "a"
    assert work(tmp_path / "a.tif").jobs[0].entry.name == "a"


def test_a_single_image_is_a_slide(images):
    assert work(images / "ADI/a.png").jobs[0].entry is not None


def test_tables_of_slides_and_of_patches(tmp_path, images):
    (tmp_path / "in").mkdir()
    write_pyramid(tmp_path / "in" / "x.svs", picture(500, 400), mpp=0.5)
    (tmp_path / "slides.csv").write_text("slide,patient,mpp,label\nx.svs,P1,0.25,MSI\n")
    found = work(tmp_path / "slides.csv", slides_dir=str(tmp_path / "in"))
    (job,) = found.jobs
    assert (job.entry.mpp, job.patient, job.label) == (0.25, "P1", "MSI")
    (images / "list.csv").write_text("file,label\nADI/a.png,fat\n")
    assert work(images / "list.csv").sources[0].classes == ("fat",)


def make_store(root, settings=SETTINGS, names=("a", "b"), **plan):
    start_store(root, {"settings": settings.as_dict(), "image": "png", **plan})
    data = (root.parent / "tile.png").read_bytes()
    for name in names:
        write_part(root, name, [Tile(data, "", name, 32 * i, 0) for i in range(2)], {"mpp": 0.5, "path": f"{name}.svs"})
    finish_store(root, names)
    return root


def test_stores_have_a_job_a_slide(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / "tile.png")
    found = work(make_store(tmp_path / "s"), make_store(tmp_path / "t", names=("c",)))
    assert [(job.name, job.source, job.count) for job in found.jobs] == [("a", 0, 2), ("b", 0, 2), ("c", 1, 2)]
    assert found.jobs[2].coords.tolist() == [[0, 0], [32, 0]] and found.jobs[0].geometry.footprint_px == 64
    assert found.total == 6 and not found.check and found.read_from == "store (png)"
    assert found.selection_sha256 == work(tmp_path / "tile.png", mpp=1.0).selection_sha256  # as if cut on the way
    with pytest.raises(UserError, match="two slides or folders are called a"):
        work(tmp_path / "s", make_store(tmp_path / "u"))
    other = make_store(tmp_path / "v", dataclasses.replace(SETTINGS, seed=1), names=("d",))
    with pytest.raises(UserError, match=r"v: was cut with other settings than .*s; extract them one after the other"):
        work(tmp_path / "s", other)


def test_annotations_change_the_selection(tmp_path, images):
    marks = (Marks(include=str(tmp_path), include_class=kind) for kind in (None, "tumour"))
    one, other = (work(images, kind="slides", marks=one) for one in marks)
    digests = {one.selection_sha256, other.selection_sha256, work(images, kind="slides").selection_sha256}
    assert len(digests) == 3 and one.selection()["include"] == str(tmp_path)


def test_mixtures_and_nothing_are_refused(tmp_path, images):
    with pytest.raises(UserError, match="--input: patches and slides together"):
        work(images, images / "ADI/a.png")
    with pytest.raises(UserError, match="does not exist"):
        work(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no slides"):
        work(tmp_path / "empty")
    assert np.array_equal(work("synthetic:20").jobs[0].numbers, np.arange(20))
