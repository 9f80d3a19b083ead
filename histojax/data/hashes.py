"""Fingerprints of tiles: one that any changed pixel changes, and one that a copy keeps.

The second, the perceptual hash, are the signs of the 255 lowest frequencies (discrete cosine transform of the grey
tile at 32 x 32 pixels). Of two different tiles each sign agrees by chance: the distances of 1.6 million pairs of 1,800
colorectal tiles were those of 255 coin tosses, 127.5 on average, standard deviation 8.0, the nearest 81. Copies of
these tiles lay at most 9 apart after JPEG of quality 50, 18 after quality 20, 8 after 10 % more light, 32 after a
shift by one pixel along both axes, 49 by two (`tools/measure_tiles.py SET` measures it). SAME is where
"near-identical" ends: by chance less than one pair in 10**20 is so near. On tiles of 50 px and less a shift of one
pixel is too much.

A copy turned by quarters or mirrored has the same frequencies with some signs changed, rows and columns exchanged:
`uprighted` turns every tile so that its slowest changes point the same way, which copies share. That finds copies
that were turned only, and 98.8 % of the same tiles mirrored and saved as JPEG of quality 50.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import cv2
import numpy as np

SAME = 48  # of 255 signs may differ in near-identical tiles
SIDE, KEPT = 32, 16  # pixels that are transformed; frequencies kept along each axis
ROW = np.dtype(
    [
        ("pixels", np.uint64, 2),  # the first half of the SHA-256 of size and pixels
        ("signs", np.uint64, 4),
        ("turn", np.uint8),  # how `uprighted` turns it
        ("contrast", np.float32),  # standard deviation of green, grey levels
        ("bad", np.bool_),  # unreadable: the rest is 0
    ]
)
BANDS, BAND_BITS = 20, 18  # sets of signs of which near-identical tiles are expected to share one whole
STEADY = 96  # lowest frequencies, which the sets are taken from
LONGEST_RUN = 64  # tiles of one set that are all compared; of more, neighbours in the order of their signs


def hash_tile(tile: np.ndarray) -> np.ndarray:
    """() ROW of an (h, w, 3) uint8 tile."""
    row = np.zeros((), ROW)
    digest = hashlib.sha256(str(tile.shape).encode())
    digest.update(np.ascontiguousarray(tile).data)
    row["pixels"] = np.frombuffer(digest.digest()[:16], np.uint64)
    grey = cv2.resize(
        cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA
    )
    found = cv2.dct(grey)[:KEPT, :KEPT]
    positive = found > 0
    positive[0, 0] = False  # the mean
    row["signs"] = np.packbits(positive).view(np.uint64)
    across, down = found[0, 1], found[1, 0]
    exchange = abs(down) > abs(across)
    if exchange:
        across, down = down, across
    row["turn"] = 4 * exchange + 2 * (across < 0) + (down < 0)
    row["contrast"] = float(np.std(tile[..., 1]))
    return row


def uprighted(signs: np.ndarray, turn: np.ndarray, rows: int = 1 << 15) -> np.ndarray:
    """(n, 4) uint64: the signs of the tiles turned and mirrored so that all copies of one are alike."""
    odd = np.arange(KEPT) % 2 == 1
    result = np.empty_like(signs)
    for start in range(0, len(signs), rows):
        part, how = np.ascontiguousarray(signs[start : start + rows]), turn[start : start + rows]
        bits = np.unpackbits(part.view(np.uint8), axis=1).reshape(-1, KEPT, KEPT).astype(bool)
        bits = np.where((how & 4 > 0)[:, None, None], bits.transpose(0, 2, 1), bits)
        bits ^= (how & 2 > 0)[:, None, None] & odd[None, None, :]
        bits ^= (how & 1 > 0)[:, None, None] & odd[None, :, None]
        result[start : start + rows] = np.packbits(bits.reshape(len(part), KEPT * KEPT), axis=1).view(np.uint64)
    return result


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(...) signs that differ, of (..., 4) uint64."""
    return np.bitwise_count(first ^ second).sum(-1, dtype=np.uint16)


def near_pairs(signs: np.ndarray, most: int = SAME) -> tuple[np.ndarray, np.ndarray, int]:
    """((p, 2) int64 pairs i < j of rows at most `most` apart, (p,) their distances, rows in crowded sets).

    Rows that share all of some 18 signs are compared, for 20 such sets of signs. Of the pairs that lie within `most` it
    finds nearly all, the nearer the surer. Tiles without structure may share a
    set with very many, which are then not all compared.
    """
    found, near, crowded = [], [], 0
    for key in _band_keys(signs):
        order = np.argsort(key << np.uint64(64 - BAND_BITS) | signs[:, 0] >> np.uint64(BAND_BITS))
        key, sorted_signs = key[order], signs[order]
        lengths = np.diff(np.flatnonzero(np.diff(key, prepend=~key[:1])), append=len(key))
        crowded = max(crowded, int(lengths[lengths > LONGEST_RUN].sum()))
        for step in range(1, min(LONGEST_RUN, int(lengths.max(initial=1)))):
            start = np.flatnonzero(key[:-step] == key[step:])
            apart = distances(sorted_signs[start], sorted_signs[start + step])
            start, apart = start[apart <= most], apart[apart <= most]
            one, two = order[start], order[start + step]
            found.append(np.stack([np.minimum(one, two), np.maximum(one, two)], 1))
            near.append(apart)
    if not found:
        return np.empty((0, 2), np.int64), np.empty(0, np.uint16), crowded
    pairs, place = np.unique(np.concatenate(found), axis=0, return_index=True)
    return pairs.astype(np.int64), np.concatenate(near)[place], crowded


def _band_keys(signs: np.ndarray) -> Iterator[np.ndarray]:
    """(n,) uint64 for each set of signs: the same number for rows that share them all."""
    u, v = np.divmod(np.arange(KEPT * KEPT), KEPT)
    slowest = np.argsort(u * u + v * v, kind="stable")[1 : 1 + STEADY]
    data = np.ascontiguousarray(signs).view(np.uint8).reshape(len(signs), 8 * signs.shape[1])
    rng = np.random.default_rng(0)
    for _ in range(BANDS):
        key = np.zeros(len(signs), np.uint32)
        for bit in rng.choice(slowest, BAND_BITS, replace=False).tolist():
            key = key << 1 | (data[:, bit // 8] >> (7 - bit % 8) & 1)
        yield key.astype(np.uint64)
