import numpy as np

from histojax.data.copies import IDENTICAL, NEAR, TURNED, connected, find_copies
from histojax.data.hashes import hash_tile
from histojax.data.synthetic import SyntheticTissue


def test_groups_of_copies():
    source = SyntheticTissue(4, 128, classes=["tumour", "stroma"])
    a, b, c, d = (source.read(i) for i in range(4))
    tiles = [a, b, a, np.roll(a, 1, 1), np.ascontiguousarray(b[::-1]), c, d, d]
    rows = np.stack([hash_tile(tile) for tile in tiles])
    found = find_copies(rows, np.array([True] * 7 + [False]))
    assert found.cluster.tolist() == [0, 1, 0, 0, 1, -1, -1, -1] and found.first[[2, 3, 4]].tolist() == [0, 0, 1]
    assert [found.kind(i) for i in (2, 3, 4)] == [IDENTICAL, NEAR, TURNED]
    assert found.distance[2] == 0 < found.distance[3] and found.distance[4] == 0
    alone = find_copies(rows, np.ones(8, bool), most=0)
    assert alone.cluster.tolist() == [0, -1, 0, -1, -1, -1, 1, 1]
    assert find_copies(rows[:0], np.ones(0, bool)).cluster.size == 0


def test_chains_of_pairs():
    pairs = np.array([[5, 6], [1, 2], [2, 3], [6, 0], [8, 3]])
    assert connected(9, pairs).tolist() == [0, 1, 1, 1, 4, 0, 0, 7, 1]
    assert connected(3, np.empty((0, 2), np.int64)).tolist() == [0, 1, 2]
