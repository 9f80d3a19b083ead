import io

import numpy as np
import pytest
from PIL import Image

from histojax.data.hashes import SAME, distances, hash_tile, near_pairs, uprighted
from histojax.data.synthetic import SyntheticTissue


@pytest.fixture(scope="module")
def tiles():
    source = SyntheticTissue(60, 128, classes=["tumour", "stroma", "mucosa", "muscle", "debris"])
    return [source.read(i) for i in range(60)]


def jpeg(tile, quality):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def hashed(tiles):
    return np.stack([hash_tile(tile) for tile in tiles])


CHANGES = {
    "as it is": lambda t: (t, t),
    "jpeg": lambda t: (t, jpeg(t, 50)),
    "light": lambda t: (t, np.clip(t.astype(int) + 10, 0, 255).astype(np.uint8)),
    "one pixel": lambda t: (t[:, :-1], t[:, 1:]),
    "resized": lambda t: (t, np.asarray(Image.fromarray(t).resize((146, 146)))),
}
TURNS = {
    "quarter": np.rot90,
    "half": lambda t: np.rot90(t, 2),
    "mirrored": lambda t: t[:, ::-1],
    "upside down": lambda t: t[::-1],
    "transposed": lambda t: t.transpose(1, 0, 2),
    "quarter, mirrored, jpeg": lambda t: jpeg(np.rot90(t)[:, ::-1], 90),
}


def found_share(first, second):
    """Share of the pairs (i, n + i) among those found, and how many others are."""
    pairs, _, crowded = near_pairs(np.concatenate([first, second]))
    mine = pairs[:, 1] - pairs[:, 0] == len(first)
    assert crowded == 0
    return mine.sum() / len(first), (~mine).sum()


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_near_and_found(tiles, change):
    first, second = (hashed(side) for side in zip(*map(CHANGES[change], tiles)))
    assert distances(first["signs"], second["signs"]).max() <= SAME
    share, others = found_share(first["signs"], second["signs"])
    assert share >= 0.95 and others == 0


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_copy_is_the_same_once_upright(tiles, turn):
    first, second = hashed(tiles), hashed([np.ascontiguousarray(TURNS[turn](tile)) for tile in tiles])
    upright = [uprighted(rows["signs"], rows["turn"]) for rows in (first, second)]
    share, others = found_share(*upright)
    assert share >= 0.95 and others == 0
    assert found_share(first["signs"], second["signs"])[0] < 0.1  # as they lie they are not


def test_different_tiles_are_far_apart(tiles):
    rows = hashed(tiles)
    apart = np.concatenate([distances(rows["signs"][i + 1 :], rows["signs"][i]) for i in range(60)])
    assert apart.min() > SAME and len(near_pairs(rows["signs"])[0]) == 0


def test_pixels_tell_size_and_every_value(tiles):
    tile = tiles[0]
    other = tile.copy()
    other[5, 7, 1] ^= 1
    rows = hashed([tile, tile.copy(), other, tile.reshape(64, 256, 3)])
    assert (rows["pixels"][0] == rows["pixels"][1]).all()
    assert all((rows["pixels"][0] != rows["pixels"][i]).any() for i in (2, 3))
    assert rows["contrast"][0] == pytest.approx(tile[..., 1].std(), rel=1e-4)


def test_crowded_sets_are_counted():
    signs = np.zeros((500, 4), np.uint64)
    pairs, apart, crowded = near_pairs(signs)
    assert crowded == 500 and len(pairs) >= 499 and apart.max() == 0
