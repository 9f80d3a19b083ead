import numpy as np
import pytest
from tile_files import file_bytes, make_folder, picture

from histojax.common.errors import UserError
from histojax.data.records import Joined, split_labelled
from histojax.data.sources import open_source


class Table:
    """A source that is only labels and groups."""

    def __init__(self, labels, groups=None):
        self.labels = np.asarray(labels, np.int32)
        self.groups = None if groups is None else np.asarray(groups, str)


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


def test_split_by_group_leaks_nothing_and_balances_classes():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 20, 600)
    labels = rng.integers(-1, 4, 600)
    source = Table(labels, [f"p{g}" for g in groups])
    train, test = split_labelled(source, 0.3, seed=5)
    assert not set(groups[train]) & set(groups[test])
    assert sorted([*train, *test]) == np.flatnonzero(labels >= 0).tolist()
    for label in range(4):
        assert 0.2 < (labels[test] == label).sum() / (labels == label).sum() < 0.4
    again = split_labelled(source, 0.3, seed=5)
    assert (again[0] == train).all() and (again[1] == test).all()
    assert split_labelled(source, 0.3, seed=6)[1].tolist() != test.tolist()


def test_split_two_big_patients_gives_one_each_side():
    train, test = split_labelled(Table([0, 1, 0, 1], ["a", "a", "b", "b"]), 0.25, seed=0)
    assert len(train) == len(test) == 2


def test_split_without_groups_is_stratified():
    labels = np.array([0] * 40 + [1] * 10 + [-1] * 5)
    train, test = split_labelled(Table(labels), 0.5, seed=1)
    assert np.bincount(labels[test]).tolist() == [20, 5] and np.bincount(labels[train]).tolist() == [20, 5]


def test_tiles_without_a_group_are_split_by_themselves():
    groups = np.array(["a"] * 10 + [""] * 30)
    train, test = split_labelled(Table([0] * 40, groups), 0.5, seed=1)
    assert not {"a"} <= set(groups[train]) & set(groups[test])
    assert 15 <= len(test) <= 25


@pytest.mark.parametrize(
    ("source", "share", "message"),
    [
        (Table([-1, -1]), 0.5, "no tile is labelled"),
        (Table([0, 1, 1], ["a", "a", "a"]), 0.5, "patients"),
        (Table([0, 1]), 1.5, "1.5"),
    ],
)
def test_impossible_splits_are_user_errors(source, share, message):
    with pytest.raises(UserError, match=message):
        split_labelled(source, share, seed=0)
