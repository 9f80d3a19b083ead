"""CLAM's folder: its two lines read the features, a rerun changes nothing, and nothing of anybody's is overwritten."""

import h5py
import numpy as np
import pytest
import test_feature_file as files

from histojax.common.errors import UserError
from histojax.features.clam_folder import write_clam
from histojax.features.folder import JobFolder
from histojax.features.read import read_features


@pytest.fixture
def folder(tmp_path):
    folder = JobFolder(tmp_path, "10x_256px_0px_overlap")
    folder.make(["tiny"], True)
    files.write(folder.features("tiny", "a.b"))
    return folder


def test_both_files_have_the_features(folder):
    write_clam(folder, "tiny", "a.b")
    base = folder.base / "clam_tiny"
    with h5py.File(base / "h5_files/a.b.h5") as file:
        np.testing.assert_array_equal(file["features"][:], files.rows().features)
    found = read_features(base / "pt_files/a.b.pt")
    np.testing.assert_array_equal(found.features, files.rows().features)
    np.testing.assert_array_equal(found.coords, files.rows().coords)  # from h5_files beside
    was = (base / "pt_files/a.b.pt").stat().st_mtime_ns
    write_clam(folder, "tiny", "a.b")
    assert (base / "pt_files/a.b.pt").stat().st_mtime_ns == was


@pytest.mark.parametrize("name", ["h5_files/a.b.h5", "pt_files/a.b.pt"])
def test_what_is_of_somebody_else_is_left(folder, name):
    path = folder.base / "clam_tiny" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="move it away and run again"):
        write_clam(folder, "tiny", "a.b")
    assert path.read_bytes() == b"mine"


def test_a_drive_without_links_gets_copies(folder, monkeypatch):
    monkeypatch.setattr("pathlib.Path.symlink_to", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
    for _ in range(2):
        write_clam(folder, "tiny", "a.b")
    path = folder.base / "clam_tiny/h5_files/a.b.h5"
    assert not path.is_symlink() and path.read_bytes() == folder.features("tiny", "a.b").read_bytes()
