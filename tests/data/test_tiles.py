import numpy as np
from tile_files import file_bytes, make_folder, picture

from histojax.data.sources import open_source
from histojax.data.tiles import Joined


def test_fingerprint_changes_with_size_and_name_but_not_with_the_place(tmp_path):
    first = make_folder(tmp_path / "a", {"x": 3})
    same = make_folder(tmp_path / "b", {"x": 3})
    before = open_source(first).fingerprint()
    assert before == open_source(same).fingerprint() and len(before) == 64
    (same / "x" / "tile_001.png").write_bytes(file_bytes(picture(1)) + b" ")
    (first / "x" / "tile_001.png").rename(first / "x" / "tile_009.png")
    assert len({before, open_source(same).fingerprint(), open_source(first).fingerprint()}) == 3


def test_joined_merges_classes_by_name_and_keeps_unlabelled(tmp_path):
    a = open_source(make_folder(tmp_path / "a", {"tumour": 2, "stroma": 1}))
    b = open_source(make_folder(tmp_path / "b", {"": 2}))
    c = open_source(make_folder(tmp_path / "c", {"adipose": 1, "tumour": 1}))
    joined = Joined([a, b, c])
    assert joined.classes == ("adipose", "stroma", "tumour")
    assert joined.labels.tolist() == [1, 2, 2, -1, -1, 0, 2] and joined.labels.dtype == np.int32
    assert joined.groups is None
    assert joined.name(3) == b.name(0) and (joined.read(6) == c.read(1)).all()
    assert joined.fingerprint() != Joined([b, a, c]).fingerprint()
