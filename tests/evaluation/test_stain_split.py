"""Splits by stain: no cluster on both sides, every class on both, other tiles of the test's stains left out."""

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.data.decode import BadTile
from histojax.evaluation.stain_split import mean_densities, outside_test, split_by_stain

STAINS = np.array([[200, 120, 190], [150, 60, 140], [230, 190, 220], [120, 100, 180], [180, 40, 90]], float)


class Tiles:
    """`per` tiles of each of five stains in each class, in random order; class "b" is a little darker."""

    def __init__(self, per=6, classes=("a", "b"), bad=(), seed=0):
        rng = np.random.default_rng(seed)
        self.classes, self.bad = tuple(classes), set(bad)
        label, stain = (x.ravel() for x in np.indices((max(len(classes), 1), len(STAINS) * per)))
        self.stain = stain % len(STAINS)
        order = rng.permutation(len(label))
        self.labels, self.stain = (label if classes else label - 1)[order].astype(np.int32), self.stain[order]
        colours = STAINS[self.stain] - 8 * np.maximum(self.labels, 0)[:, None] + rng.normal(0, 1.5, (len(order), 3))
        self.tiles = np.broadcast_to(colours[:, None, None], (len(order), 4, 5, 3)).round().astype(np.uint8)

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        if index in self.bad:
            raise BadTile("x", "broken")
        return self.tiles[index]


def test_densities_are_means_over_pixels_of_the_logarithm():
    source = Tiles(per=1, bad=[3])
    found = mean_densities(source, np.arange(len(source)))
    expected = -np.log10((source.tiles.astype(float) + 1) / 256).mean((1, 2))
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(expected, 3, 0), rtol=1e-5)


def test_no_stain_of_a_class_is_on_both_sides_and_every_class_is_on_both():
    source = Tiles(bad=[4, 7])
    split = split_by_stain(source, share=0.4)
    assert sorted([*split.fit, *split.test, *split.unreadable]) == list(range(60)) and set(split.unreadable) == {4, 7}
    for label in (0, 1):
        fit, test = ({source.stain[i] for i in part if source.labels[i] == label} for part in (split.fit, split.test))
        assert len(fit) == 3 and len(test) == 2 and not fit & test
    again = split_by_stain(source, share=0.4)
    np.testing.assert_array_equal(split.test, again.test)


def test_other_tiles_of_the_tests_stains_are_left_out():
    source = Tiles()
    split = split_by_stain(source, share=0.4)
    tested = [{source.stain[i] for i in split.test if source.labels[i] == label} for label in (0, 1)]
    more = Tiles(seed=1, bad=[2])
    found = outside_test(split, more)
    expected = [more.stain[i] not in tested[more.labels[i]] for i in range(len(more))]
    expected[2] = True  # nobody knows: training counts it
    assert found.tolist() == expected
    unknown = Tiles(classes=(), seed=2)
    assert set(unknown.stain[~outside_test(split, unknown)]) <= tested[0] | tested[1]


@pytest.mark.parametrize(
    "source, said",
    [(Tiles(classes=()), "no tile is labelled"), (Tiles(per=1, bad=range(8)), "do not part into two clusters")],
)
def test_what_cannot_be_parted_is_named(source, said):
    with pytest.raises(UserError, match=said):
        split_by_stain(source, share=0.4)
