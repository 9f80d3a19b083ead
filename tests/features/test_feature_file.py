"""Our file: what is written comes back, its bytes are the same again, and TRIDENT's and CLAM's lines read it."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import peer_readers
import pytest

from histojax.common.errors import UserError
from histojax.features.feature_file import Rows, coords_attributes, nominal_magnification, write_coords, write_features
from histojax.features.read import read_coords, read_features, read_header, read_tokens
from histojax.features.stored import Geometry, Origin, check_mixable
from histojax.weights.licence import Link

RNG = np.random.default_rng(0)
GEOMETRY = Geometry(256, 1.0, 512.0, 0, 0.5, "metadata (openslide.mpp-x)", (5000, 4200))
LICENCES = (Link("dinov2_vits14", "Apache-2.0", True, True, "x.pth", "ab" * 32),)
ORIGIN = Origin(
    "histojax 0.1.0",
    "dinov2_vits14",
    "x.pth",
    "ab" * 32,
    "cd" * 32,
    "cls",
    "float32",
    "none",
    "ef" * 32,
    "slides",
    LICENCES,
)


def rows(count=5, width=8, **changes):
    features = np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)
    coords = np.stack([np.arange(count) * 512, np.full(count, 1024)], 1)
    return replace(Rows(features, coords), **changes)


def write(path, these=None, geometry=GEOMETRY, origin=ORIGIN, **options):
    write_features(path, path.stem, these or rows(), geometry, origin, **options)
    return path


def test_a_slide_comes_back(tmp_path):
    these = rows(skipped=((0, 512, "damaged"), (512, 512, "damaged, too")))
    found = read_features(write(tmp_path / "a.h5", these, folder="10x_256px_0px_overlap/features_x"))
    np.testing.assert_array_equal(found.features, these.features)
    np.testing.assert_array_equal(found.coords, these.coords)
    assert found.features.dtype == np.float32 and found.coords.dtype == np.int64 and found.unit == "level-0 px"
    assert found.header.kind == "histojax" and found.header.name == "a" and found.header.skipped == 2
    assert found.geometry == GEOMETRY and found.origin == ORIGIN
    assert read_header(tmp_path / "a.h5") == found.header
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["skipped_coords"][:].tolist() == [[0, 512], [512, 512]]
        assert [text.decode() for text in file["skipped"][:]] == ["damaged", "damaged, too"]


def test_labelled_patches_come_back(tmp_path):
    names = np.array(["ADI/1.png", "TUM/2 ü.png", "x.png"])
    these = rows(3, coords=None, names=names, labels=np.array([0, 1, -1]), classes=("ADI", "TUM"))
    these = replace(these, groups=np.array(["p1", "p2", ""]), group_kind="patient")
    found = read_features(write(tmp_path / "a.h5", these, Geometry(tile_px=224), ORIGIN))
    assert found.names.tolist() == names.tolist() and found.labels.tolist() == [0, 1, -1]
    assert found.header.classes == ("ADI", "TUM") and found.groups.tolist() == ["p1", "p2", ""]
    assert found.coords is None and found.unit == "" and found.header.group_kind == "patient"
    assert found.geometry == Geometry(tile_px=224)


def test_half_precision_and_tokens(tmp_path):
    tokens = RNG.normal(size=(5, 4, 8)).astype(np.float32)
    path = write(tmp_path / "a.h5", rows(tokens=tokens, grid=(2, 2)), save="float16")
    found = read_features(path)
    assert found.header.dtype == np.float16 and found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, rows().features.astype(np.float16))
    assert found.header.tokens == (4, 8) and found.header.grid == (2, 2)
    np.testing.assert_array_equal(read_tokens(path, slice(1, 3)), tokens[1:3].astype(np.float16))
    with pytest.raises(UserError, match="no patch tokens; extract with --patch-tokens"):
        read_tokens(write(tmp_path / "b.h5"))


def test_the_same_features_are_the_same_bytes(tmp_path):
    """In another process, another second, another folder."""
    these = rows(3000, 64, skipped=((0, 0, "x"),), names=np.array(["a"] * 3000))
    first = write(tmp_path / "a.h5", these).read_bytes()
    (tmp_path / "b").mkdir()
    time.sleep(1.1)
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; import numpy as np; from pathlib import Path;"
        "import test_feature_file as t; t.write(Path(sys.argv[1]),"
        " t.rows(3000, 64, skipped=((0, 0, 'x'),), names=np.array(['a'] * 3000)))"
    )
    where = [str(tmp_path / "b" / "a.h5"), os.path.dirname(__file__), os.getcwd()]
    subprocess.run([sys.executable, "-c", code, *where], check=True)
    assert (tmp_path / "b" / "a.h5").read_bytes() == first
    assert len(first) < 3000 * 64 * 4 + 3000 * 16 * 4 + 60_000
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features"].chunks == (3000, 64) and file["features"].fletcher32


def test_trident_and_clam_read_it(tmp_path):
    path = write(tmp_path / "slide.h5", folder="10x_256px_0px_overlap/features_dinov2_vits14")
    features, coords, attrs = peer_readers.trident_features(path)
    np.testing.assert_array_equal(features, rows().features)
    np.testing.assert_array_equal(coords, rows().coords)
    assert features.dtype == np.float32 and coords.dtype == np.int64
    said = attrs["coords"]
    assert (said["patch_size"], said["patch_size_level0"], said["overlap"]) == (256, 512.0, 0)
    assert (said["level0_magnification"], said["target_magnification"]) == (20, 10.0)
    assert (said["level0_width"], said["level0_height"], said["name"]) == (5000, 4200, "slide")
    assert said["savetodir"] == "10x_256px_0px_overlap" and said["patch_size_level0"].dtype == np.float64
    assert attrs["features"]["encoder"] == "dinov2_vits14" and attrs["features"]["name"] == "slide"
    assert attrs["features"]["savetodir"] == "10x_256px_0px_overlap/features_dinov2_vits14"
    bag, where, footprint = peer_readers.trident_slide_encoder_batch(path)
    assert bag.shape == (1, 5, 8) and where.shape == (1, 5, 2) and footprint == 512
    np.testing.assert_array_equal(peer_readers.clam_bag(path)[0], features)


def test_a_patches_file_is_read_by_trident_clam_and_us(tmp_path):
    path = tmp_path / "slide_patches.h5"
    write_coords(path, "slide", rows().coords, GEOMETRY, "10x_256px_0px_overlap")
    attrs, coords = peer_readers.trident_coords(path)
    np.testing.assert_array_equal(coords, rows().coords)
    assert attrs["patch_size_level0"] == 512.0
    count, each, size = peer_readers.clam_whole_slide_bag(path)
    assert count == 5 and each[1].tolist() == [512, 1024] and size == 256
    ours, geometry = read_coords(path)
    np.testing.assert_array_equal(ours, coords)
    assert geometry.tile_px == 256 and geometry.footprint_px == 512 and geometry.slide_size == (5000, 4200)
    with pytest.raises(UserError, match="coordinates alone: give the file of features"):
        read_features(path)


@pytest.mark.parametrize(
    ("mpp", "nominal"), [(0.1, 80), (0.18, 60), (0.25, 40), (0.499, 20), (0.9, 10), (2, 5), (8, 1)]
)
def test_nominal_magnification(mpp, nominal):
    assert nominal_magnification(mpp) == nominal


def test_what_is_not_known_is_left_out():
    assert coords_attributes("a", Geometry(), "") == {"name": "a", "savetodir": ""}
    assert coords_attributes("a", replace(GEOMETRY, mpp=1.14), "")["target_magnification"] == 10 / 1.14


def test_nothing_is_written_that_no_reader_could_use(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(UserError, match="no tile has features"):
        write(path, rows(0))
    with pytest.raises(UserError, match="4 coords for 5 features"):
        write(path, rows(coords=rows(4).coords))
    bad = rows().features.copy()
    bad[2, 3] = np.nan
    with pytest.raises(UserError, match="1 of 5 tiles are not finite; compute in float32"):
        write(path, rows(features=bad))
    bad[2, 3] = 1e5
    with pytest.raises(UserError, match="1 of 5 tiles are not finite; save them as float32"):
        write(path, rows(features=bad), save="float16")
    assert not list(tmp_path.iterdir())
    write(path, rows(features=bad))


def test_a_newer_format_is_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.attrs["format"] = "histojax features 2"
    with pytest.raises(UserError, match="written by a newer histojax"):
        read_features(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = write(tmp_path / "a.h5", rows(50, 64))
    data = bytearray(path.read_bytes())
    at = data.find(rows(50, 64).features.tobytes()[:64])
    data[at + 700] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.h5: damaged or truncated"):
        read_features(path)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands for the disk; HDF5 alone would take the process down."""
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
    try:
        with pytest.raises(UserError, match=r"a\.h5: cannot be written"):
            write(path, rows(2000, 64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["a.h5"]


def headers(tmp_path, **changes):
    write(tmp_path / "a.h5")
    write(tmp_path / "b.h5", origin=replace(ORIGIN, **changes))
    return [read_header(tmp_path / name) for name in ("a.h5", "b.h5")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(encoder="uni"), r"different encoders are not mixed: .*a\.h5 has dinov2_vits14, .*b\.h5 has uni"),
        (dict(weights_sha256="12" * 32), rf"different weights .*{'ab' * 32} .*{'12' * 32}"),
        (dict(preprocess_sha256="34" * 32), rf"different preprocessing .*{'cd' * 32}.*{'34' * 32}"),
    ],
)
def test_mixing_is_refused_by_both_hashes(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        check_mixable(headers(tmp_path, **changes))


def test_spellings_of_one_encoder_mix(tmp_path):
    assert check_mixable(headers(tmp_path, encoder="vit_small_patch14_dinov2.lvd142m")) == []


def test_what_is_unknown_is_said_not_taken_for_equal(tmp_path):
    notes = check_mixable(headers(tmp_path, weights_sha256="", producer="TRIDENT", compute_dtype="bfloat16"))
    assert any(note.startswith("weights: 1 of 2 files do not say (TRIDENT") for note in notes)
    assert any(note.startswith("arithmetic differs: float32") for note in notes)


def stored(path):
    """{name: (type of its values or dtype, dimensions)} of everything in a file that TRIDENT has, too."""
    with h5py.File(path) as file:
        found = {name: (file[name].dtype.str, file[name].ndim) for name in file}
        for name in file:
            for key in file[name].attrs:
                value = file[name].attrs[key]
                found[f"{name}.{key}"] = (getattr(value, "dtype", np.dtype(object)).str, np.ndim(value))
    return found


@pytest.mark.parametrize("kind", ["feat", "patches"])
def test_types_are_those_of_trident(tmp_path, kind):
    golden = Path(__file__).parents[1] / f"golden/feature_files/trident_{kind}_10x_256px__cmu-1-small-region.h5"
    path = tmp_path / "slide.h5"
    if kind == "feat":
        write(path, folder="10x_256px_0px_overlap/features_x")
    else:
        write_coords(path, "slide", rows().coords, GEOMETRY, "10x_256px_0px_overlap")
    theirs, ours = stored(golden), stored(path)
    assert {key: ours.get(key) for key in theirs} == theirs
