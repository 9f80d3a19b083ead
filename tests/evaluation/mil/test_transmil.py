"""TransMIL in buckets: the published model written out for one number of tiles."""

import mil_cases
import numpy as np
import pytest

from histojax.evaluation.mil.bags import padded
from histojax.evaluation.mil.models import forward
from histojax.evaluation.mil.transmil import find_places


def softmax(x):
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def nystrom(x, p, heads, m):
    """Tokens (t, D): zeros in front to a multiple of m landmarks, then Xiong et al."""
    front = -len(x) % m
    normed = np.pad(norm(x, p["norm"]), ((front, 0), (0, 0)))
    q, k, v = (a.reshape(len(normed), heads, -1).swapaxes(0, 1) for a in np.split(normed @ p["qkv"]["kernel"], 3, -1))
    q = q * q.shape[-1] ** -0.5
    near, far = (a.reshape(heads, m, -1, a.shape[-1]).mean(axis=2) for a in (q, k))
    middle = softmax(near @ far.swapaxes(1, 2))
    z = middle.swapaxes(1, 2) / (middle.sum(-1).max() * middle.sum(-2).max())
    eye = np.eye(m)
    for _ in range(6):
        xz = middle @ z
        z = 0.25 * z @ (13 * eye - xz @ (15 * eye - xz @ (7 * eye - xz)))
    out = softmax(q @ far.swapaxes(1, 2)) @ z @ (softmax(near @ k.swapaxes(1, 2)) @ v)
    around = np.pad(v, ((0, 0), (16, 16), (0, 0)))
    out += sum(around[:, i : i + len(normed)] * p["taps"][i][:, None, None] for i in range(33))
    out = out.swapaxes(0, 1).reshape(len(normed), -1) @ p["out"]["kernel"] + p["out"]["bias"]
    return x + out[front:]


def written_out(x, p, settings):
    tiles = np.maximum(x @ p["projection"]["kernel"] + p["projection"]["bias"], 0)
    side = int(np.ceil(np.sqrt(len(x))))
    tiles = np.concatenate([tiles, tiles[: side**2 - len(x)]])
    tokens = nystrom(np.concatenate([p["cls"][None], tiles]), p["layer1"], settings.heads, settings.landmarks)
    square = tokens[1:].reshape(side, side, -1)
    grid = square.copy()
    for size in (7, 5, 3):
        kernel, around = p["grid"][f"kernel{size}"], np.pad(square, [(size // 2, size // 2)] * 2 + [(0, 0)])
        for i, j in np.ndindex(size, size):
            grid += around[i : i + side, j : j + side] * kernel[i, j]
        grid += p["grid"][f"bias{size}"]
    tokens = np.concatenate([tokens[:1], grid.reshape(side**2, -1)])
    tokens = nystrom(tokens, p["layer2"], settings.heads, settings.landmarks)
    return norm(tokens[0], p["norm"]) @ p["head"]["kernel"] + p["head"]["bias"]


@pytest.mark.parametrize("tiles", [1, 2, 9, 11])
def test_one_program_for_all_numbers_of_tiles_gives_what_the_published_one_does(tiles):
    head = mil_cases.head("transmil")
    x = np.random.default_rng(tiles).normal(size=(tiles, 6)).astype(np.float32)
    got = forward(head.settings)(head.params, *padded(x, 15))[0]
    np.testing.assert_allclose(got, written_out(x, head.params, head.settings), atol=2e-5)


def test_places_of_tokens():
    places = find_places(np.int32(3), 7, 4)  # a square of 2 x 2 with the first tile twice, behind three zeros
    assert (int(places.side), int(places.first), int(places.length), places.widest) == (2, 3, 8, 3)
    assert np.asarray(places.there).tolist() == [False] * 3 + [True] * 5 + [False] * 4
    assert np.asarray(places.tile)[4:8].tolist() == [0, 1, 2, 0]
