import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.data.split import split_in_words, split_labelled
from histojax.data.tiles import Facts


class Table:
    """A source that is only labels and groups."""

    def __init__(self, labels, groups=None, kind=""):
        self.labels, self.facts = np.asarray(labels, np.int32), Facts(group_kind=kind)
        self.groups = None if groups is None else np.asarray(groups, str)


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


@pytest.mark.parametrize(
    ("groups", "kind", "words"),
    [
        (["a", "b"], "patient", "split by patient"),
        (["a", ""], "patient", "split by patient where known (1 tiles have none)"),
        (["a", "b"], "slide", "split by slide (patients unknown: one may be in two parts)"),
        (["a", "b"], "group", "split by group"),
        (["", ""], "patient", "split by class (no patients known: tiles of one slide may be in two parts)"),
        (None, "", "split by class (no patients known: tiles of one slide may be in two parts)"),
    ],
)
def test_a_split_is_called_what_it_is(groups, kind, words):
    assert split_in_words(Table([0, 1, -1], groups and [*groups, ""], kind)) == words
