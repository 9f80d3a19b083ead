"""Files of TRIDENT, CLAM, STAMP and HistoBistro: recognised, converted, and refused when they are broken."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.features.read import read_coords, read_features, read_header
from histojax.features.stored import check_mixable
from histojax.weights.safetensors_file import write_safetensors

GOLDEN = Path(__file__).parents[1] / "golden" / "feature_files"
TRIDENT = GOLDEN / "trident_feat_10x_256px__cmu-1-small-region.h5"
CLAM = GOLDEN / "clam_feat_level0_256px__cmu-1-small-region.h5"
STAMP = GOLDEN / "stamp_feat_256um_224px__cmu-1-small-region.h5"
BISTRO = GOLDEN / "histobistro_aug.h5"


def raw(path, name):
    with h5py.File(path) as file:
        return file[name][()]


def test_trident():
    found = read_features(TRIDENT)
    np.testing.assert_array_equal(found.features, raw(TRIDENT, "features"))
    np.testing.assert_array_equal(found.coords, raw(TRIDENT, "coords"))
    assert (found.header.kind, found.header.name, found.origin.encoder) == (
        "trident",
        "cmu-1-small-region",
        "kaiko-vits16",
    )
    g = found.geometry
    assert (g.tile_px, g.footprint_px, g.overlap_px, g.slide_size) == (256, 512.0, 0, (2220, 2967))
    assert g.mpp is None and g.magnification == 10 and any("mpp is not stored" in note for note in found.origin.notes)
    # "10x" of a slide of 0.499 mpp is 0.998 mpp
    assert read_header(TRIDENT, slide_mpp=0.499).geometry.mpp == pytest.approx(0.998)


def test_trident_and_clam_patches():
    coords, geometry = read_coords(GOLDEN / "trident_patches_10x_256px__cmu-1-small-region.h5")
    np.testing.assert_array_equal(coords, raw(TRIDENT, "coords"))
    assert geometry.footprint_px == 512
    coords, geometry = read_coords(GOLDEN / "clam_patches_level0_256px__cmu-1-small-region.h5")
    np.testing.assert_array_equal(coords, raw(CLAM, "coords"))
    assert geometry.footprint_px == 256 and geometry.slide_size == (2220, 2967)
    assert read_coords(TRIDENT)[0].shape == (20, 2) and read_coords(CLAM)[0].shape == (50, 2)


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_clam_with_its_patches_beside(suffix):
    found = read_features(CLAM.with_suffix(suffix))
    np.testing.assert_array_equal(found.features, raw(CLAM, "features"))
    np.testing.assert_array_equal(found.coords, raw(CLAM, "coords"))
    assert found.coords.dtype == np.int64 and found.header.kind == "clam"
    assert found.geometry.footprint_px == 256 and found.geometry.mpp is None
    assert read_header(CLAM.with_suffix(suffix), slide_mpp=0.5).geometry.mpp == 0.5


def test_clam_alone_and_in_its_folders(tmp_path):
    patches = GOLDEN / "clam_patches_level0_256px__cmu-1-small-region.h5"
    for folder, path in (("h5_files", CLAM), ("pt_files", CLAM.with_suffix(".pt"))):
        (tmp_path / "features" / folder).mkdir(parents=True)
        shutil.copy(path, tmp_path / "features" / folder / f"cmu{path.suffix}")
    h5, pt = tmp_path / "features/h5_files/cmu.h5", tmp_path / "features/pt_files/cmu.pt"
    alone = read_features(h5)
    assert alone.geometry.tile_px is None and any("was not found" in note for note in alone.origin.notes)
    assert read_features(h5, patches=patches).geometry.tile_px == 256
    np.testing.assert_array_equal(read_features(pt).coords, alone.coords)
    (tmp_path / "patches").mkdir()
    shutil.copy(patches, tmp_path / "patches" / "cmu.h5")
    assert read_features(h5).geometry.tile_px == read_features(pt).geometry.tile_px == 256
    h5.unlink()
    np.testing.assert_array_equal(read_features(pt).coords, alone.coords)  # the patches have the same order


def test_patches_of_another_slide_are_refused(tmp_path):
    other = tmp_path / "patches.h5"
    shutil.copy(GOLDEN / "clam_patches_level0_256px__cmu-1-small-region.h5", other)
    with h5py.File(other, "a") as file:
        file["coords"][0] = 7
    with pytest.raises(UserError, match="not the patches of"):
        read_features(CLAM, patches=other)


@pytest.mark.parametrize(("name", "mpp", "step"), [("cmu-1-small-region", 0.499, 514), ("synthA_mpp025", 0.25, 1024)])
def test_stamp_with_the_mpp_of_the_slide(name, mpp, step):
    """The attribute says 256 um; at 0.499 mpp the tile is 514 px = 256.486 um."""
    path = GOLDEN / f"stamp_feat_256um_224px__{name}.h5"
    found = read_features(path, slide_mpp=mpp)
    assert found.features.dtype == np.float32 and found.header.dtype == np.float16
    np.testing.assert_array_equal(found.features, raw(path, "feats").astype(np.float32))
    np.testing.assert_array_equal(found.stored_coords, raw(path, "coords"))
    assert found.unit == "um" and not (found.coords % step).any()
    np.testing.assert_allclose(found.coords * mpp, raw(path, "coords"), atol=1e-3)
    assert found.geometry.footprint_px == step and found.geometry.mpp == pytest.approx(step * mpp / 224)


def test_stamp_without_or_with_a_wrong_mpp():
    found = read_features(STAMP)
    assert found.coords is None and found.stored_coords.shape == (18, 2) and found.geometry.mpp == 256 / 224
    assert any("the slide's mpp is not stored" in note for note in found.origin.notes)
    assert found.origin.producer == "STAMP 2.5.0" and found.origin.encoder == "vits16-random"
    with pytest.raises(UserError, match=r"0\.5 mpp is not that of this slide"):
        read_features(STAMP, slide_mpp=0.5)


def test_histobistro():
    """x of the file is the row; scene 0 is 10240 wide and was read 5120 wide, at 1 mpp of a slide of 0.5."""
    stored = raw(BISTRO, "coords")
    found = read_features(BISTRO, slide_mpp=0.5)
    np.testing.assert_array_equal(found.features, raw(BISTRO, "feats"))
    np.testing.assert_array_equal(found.augmented, raw(BISTRO, "feats_aug"))
    np.testing.assert_array_equal(found.scenes, stored[:, 0])
    np.testing.assert_array_equal(found.stored_coords, stored[:, [2, 1]])
    np.testing.assert_array_equal(found.coords, stored[:, [2, 1]] * 2)
    assert found.coords.dtype == np.int64 and found.unit == "px at 1 mpp" and found.origin.encoder == "tiny"
    assert found.geometry.tile_px == 256 and found.geometry.footprint_px == 512 and found.geometry.mpp == 1
    alone = read_features(BISTRO)
    assert alone.coords is None and alone.stored_coords is not None
    assert any("downscaled scene" in note for note in alone.origin.notes)


def test_histobistro_scenes_have_their_own_scale(tmp_path):
    """A scene that does not divide: 5001 px are read as 2500, so a pixel of it is 2.0004 of level 0."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["feats"] = np.ones((2, 4))
        file["coords"] = np.array([[0, 0, 2048.0], [1, 512, 1024]])
        file["slide_sizes"] = np.array([[5001, 4000], [4000, 3001]])
        file["args"] = '{"patch_size": 256, "resolution_in_mpp": 1.0, "downscaling_factor": 2.0}'
    found = read_features(path)
    assert found.coords.tolist() == [[round(2048 * 5001 / 2500), 0], [2048, round(512 * 3001 / 1500)]]


@pytest.mark.parametrize("augmented", ["histaugan", "augmented"])
def test_older_histobistro(tmp_path, augmented):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((3, 4), np.float32)
        file[augmented] = np.zeros((2, 3, 4), np.float32)
        file["coords"] = np.array([[0, 256], [256, 0], [256, 512]])
    found = read_features(path)
    assert found.header.kind == "histobistro" and found.augmented.shape == (2, 3, 4) and found.scenes is None
    assert found.stored_coords.tolist() == [[256, 0], [0, 256], [512, 256]] and found.coords is None


def test_files_of_nobody(tmp_path):
    """The two layouts of MoPaDi's examples: feats with bare coords, features with names."""
    path = tmp_path / "TCGA-AD-6964" / "features.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["feats"], file["coords"] = np.ones((2, 4), np.float32), np.array([[10240, 21504], [10240, 22016]])
    found = read_features(path)
    assert found.header.kind == "plain" and found.header.name == "TCGA-AD-6964"
    assert found.coords.tolist() == [[10240, 21504], [10240, 22016]]
    assert any("taken as level-0 pixels" in note for note in found.origin.notes)
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((2, 4), np.float32)
        file["metadata"] = ["0_0_0_506.jpg", "0_0_1_506.jpg"]
    found = read_features(path)
    assert found.coords is None and found.names.tolist() == ["0_0_0_506.jpg", "0_0_1_506.jpg"]


def test_a_batch_axis_in_front(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.ones((1, 3, 4), np.float32), np.arange(6).reshape(1, 3, 2)
    found = read_features(path)
    assert found.features.shape == (3, 4) and found.coords.shape == (3, 2) and read_header(path).tiles == 3


def test_foreign_files_are_unknown_not_equal():
    notes = check_mixable([read_header(TRIDENT), read_header(CLAM), read_header(STAMP)][:2])
    assert any(note.startswith("weights, preprocessing: 2 of 2 files do not say (CLAM, TRIDENT") for note in notes)
    with pytest.raises(UserError, match="different encoders are not mixed"):
        check_mixable([read_header(TRIDENT), read_header(STAMP)])


def broken(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return path


ONES = np.ones((3, 4), np.float32)
HOLE = np.where(np.arange(12).reshape(3, 4) == 5, np.nan, ONES)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(features=ONES, coords=np.zeros((2, 2), int)), "2 coords for 3 features"),
        (dict(features=HOLE), r"1 of 3 tiles have features that are not finite \(the first is row 1\)"),
        (dict(features=ONES[0]), r"shape \(4,\), expected \(tiles, width\)"),
        (dict(features=np.ones((2, 3, 4))), r"shape \(2, 3, 4\)"),
        (dict(features=np.ones((3, 4), int)), "int64, expected floating point"),
        (dict(features=ONES[:0]), "holds 0 tiles of 4 numbers"),
        (dict(features=ONES, coords=np.zeros((3, 4), int)), r"coords have the shape \(3, 4\)"),
        (dict(feats=ONES, coords=np.full((3, 3), np.nan)), "coords are not finite in 3 rows"),
        (dict(images=ONES), r"no features that are known \(it has images\)"),
        (dict(features=ONES, names=["a", "b"]), "2 names for 3 features"),
        (dict(features=ONES, histaugan=np.ones((2, 2, 4))), "augmented features"),
    ],
)
def test_broken_contents_are_refused_by_name(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        read_features(broken(tmp_path / "bad.h5", **arrays))
    assert "bad.h5" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [0, 5, 3000, 20000, 40000])
def test_cut_files_are_refused(tmp_path, cut):
    path = tmp_path / "cut.h5"
    path.write_bytes(TRIDENT.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"cut\.h5: (empty|truncated|damaged or truncated)"):
        read_features(path)


def test_cut_tensors_and_strangers_are_refused(tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes(CLAM.with_suffix(".pt").read_bytes()[:30000])
    with pytest.raises(UserError, match=r"cut\.pt: truncated"):
        read_features(path)
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(UserError, match="no HDF5 file"):
        read_header(tmp_path / "text.h5")
    with pytest.raises(UserError, match=r"none\.h5: cannot be read \(No such file"):
        read_features(tmp_path / "none.h5")
    with pytest.raises(UserError, match="no such file"):
        read_features(tmp_path / "none.pt")


def test_links_out_of_the_file_are_not_followed(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"] = h5py.ExternalLink(str(TRIDENT), "features")
    with pytest.raises(UserError, match="a link to another place"):
        read_features(path)


def test_claims_that_no_file_can_hold_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (10_000_000, 1000), "f4", chunks=(1000, 1000))
    with pytest.raises(UserError, match="claims 40000000000 bytes"):
        read_header(path)


CORNERS = np.array([[0, 0], [512, 0], [512, 1024]])
OF_TRIDENT = dict(
    patch_size=256, level0_magnification=40, target_magnification=10, level0_width=9000, level0_height=8000
)
OF_CLAM = dict(patch_size=256, patch_level=1, downsample=np.array([4.0, 4.0]))


def made(path, arrays, of_file=(), of_coords=()):
    broken(path, **arrays)
    with h5py.File(path, "a") as file:
        for place, attributes in ((file, of_file), (file.get("coords"), of_coords)):
            for key, value in dict(attributes).items():
                place.attrs[key] = value
    return path


@pytest.mark.parametrize("place", ["of_file", "of_coords"])
@pytest.mark.parametrize("as_stored", [int, float, str, lambda value: np.array([value])])
def test_numbers_are_read_however_they_are_stored(tmp_path, place, as_stored):
    """Older TRIDENT files lack the footprint; it follows from the magnifications."""
    attributes = {place: {key: as_stored(value) for key, value in OF_TRIDENT.items()}}
    found = read_features(made(tmp_path / "a.h5", dict(feats=ONES, coords=CORNERS.astype("f4")), **attributes), 0.25)
    assert found.header.kind == "trident" and found.coords.tolist() == CORNERS.tolist()
    g = found.geometry
    assert (g.tile_px, g.footprint_px, g.mpp, g.slide_size, g.magnification) == (256, 1024, 1.0, (9000, 8000), 10)


@pytest.mark.parametrize("said", ["None", "", 0, np.nan, np.array([256, 512])])
def test_numbers_that_say_nothing_are_unknown(tmp_path, said):
    attributes = dict(OF_TRIDENT, patch_size=said, level0_magnification=said)
    g = read_features(made(tmp_path / "a.h5", dict(features=ONES, coords=CORNERS), of_coords=attributes), 0.25).geometry
    assert (g.tile_px, g.footprint_px, g.mpp) == (None, None, None) and g.slide_size == (9000, 8000)


def test_clam_tiles_of_an_unknown_level_have_no_footprint(tmp_path):
    arrays = dict(features=ONES, coords=CORNERS)
    assert read_features(made(tmp_path / "a.h5", arrays, of_coords=OF_CLAM), 0.25).geometry.footprint_px == 1024
    del (without := dict(OF_CLAM))["downsample"]
    g = read_features(made(tmp_path / "b.h5", arrays, of_coords=without), 0.25).geometry
    assert (g.tile_px, g.footprint_px, g.mpp) == (256, None, None)
    made(tmp_path / "c.h5", arrays)
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "c.h5").write_bytes(b"")  # merely lies there
    assert any("is not whole" in note for note in read_features(tmp_path / "c.h5").origin.notes)
    with pytest.raises(UserError, match="empty"):
        read_features(tmp_path / "c.h5", patches=tmp_path / "patches" / "c.h5")


def test_earlier_stamp(tmp_path):
    """2.0 says tile_size, 1 says nothing: its coordinates count pixels of 256/224 um."""
    arrays = dict(feats=ONES, coords=CORNERS / 2)
    second = dict(stamp_version="2.0.0", extractor="ctp", unit="um", tile_size=256.0)
    found = read_features(made(tmp_path / "a.h5", arrays, second), 0.5)
    assert found.coords.tolist() == CORNERS.tolist() and found.geometry.footprint_px == 512
    old = dict(feats=ONES, coords=CORNERS // 512 * 224, augmented=np.zeros(3, bool))
    for attributes in ({"extractor": "xiyuewang-ctranspath"}, {}):
        path = made(tmp_path / "b.h5", old, attributes)
        found = read_features(path)
        assert (found.header.kind, found.unit, found.coords) == ("stamp", "um", None)
        assert found.stored_coords.tolist() == (CORNERS / 2).tolist()
        assert read_features(path, 0.5).coords.tolist() == CORNERS.tolist()
    with pytest.raises(UserError, match="1 of 3 rows are of changed copies"):
        read_features(made(tmp_path / "c.h5", old | dict(augmented=np.array([0, 1, 0], bool))))
    with pytest.raises(UserError, match="holds patient features of STAMP"):
        read_features(made(tmp_path / "d.h5", dict(feats=ONES[0]), dict(encoder="titan", feat_type="patient")))


@pytest.mark.parametrize("scenes", [[0, 1, 2], [0, -1, 0]])
def test_scenes_that_are_not_there_are_refused(tmp_path, scenes):
    sizes = np.array([[5000, 4000], [3000, 2000]])
    arrays = dict(
        feats=ONES, coords=np.c_[scenes, CORNERS] * 1.0, slide_sizes=sizes, args='{"downscaling_factor": "2"}'
    )
    with pytest.raises(UserError, match="coords name the scenes"):
        read_features(broken(tmp_path / "a.h5", **arrays))


def test_coords_beyond_any_slide_are_refused(tmp_path):
    with pytest.raises(UserError, match="coords are larger than any slide in 2 rows"):
        read_features(broken(tmp_path / "a.h5", features=ONES, coords=CORNERS * 1e300))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"MATLAB 5", "no HDF5"),
    ],
)
def test_strangers_are_named_and_not_to_be_deleted(tmp_path, content, message):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_header(tmp_path / "a.h5")
    assert "delete" not in str(error.value)


def test_coordinates_within_a_tensor_file(tmp_path):
    """As a dict of both: they count, and their unit is said to be unknown."""
    path = tmp_path / "a.pt"
    write_safetensors(path, {"features": ONES, "coords": CORNERS})
    found = read_features(path)
    assert found.coords.tolist() == CORNERS.tolist() and any("unit of the coordinates" in n for n in found.origin.notes)
    write_safetensors(path, {"features": ONES, "coords": CORNERS[:2]})
    assert read_features(path).coords is None
