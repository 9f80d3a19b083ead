"""Patch tokens as colours: their first three principal components as red, green and blue (DINOv2, figure 1)."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from histojax.report.drawing import FAINT, INK, font

MARGIN, HEAD = 16, 40  # pixels around what is drawn, and for the words above
MOST = 100_000  # tokens that the components are computed from; all are coloured
CUT = 0.01  # of the values at each end of a component that are shown as its ends


def token_colours(tokens: np.ndarray, shown: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(..., 3) uint8 colours of tokens (..., D), and (3,) the shares of the variance that the components have.

    The components are of all tokens together, so that a colour means the same everywhere; of those in `shown` (...)
    bool if it is given, and the others are white.
    """
    if shown is not None and not shown.all():
        colours = np.full((*tokens.shape[:-1], 3), 255, np.uint8)
        colours[shown], variance = token_colours(tokens[shown])
        return colours, variance
    from sklearn.decomposition import PCA

    flat = np.asarray(tokens, np.float32).reshape(-1, tokens.shape[-1])
    chosen = flat if len(flat) <= MOST else flat[np.random.default_rng(0).choice(len(flat), MOST, replace=False)]
    if not chosen.std(0).any():
        return np.full((*tokens.shape[:-1], 3), 128, np.uint8), np.zeros(3)
    count = min(3, len(chosen), flat.shape[1])
    fitted = PCA(count, random_state=0).fit(chosen)
    points, shares = np.zeros((len(flat), 3)), np.zeros(3)
    points[:, :count] = fitted.transform(flat) * _signs(fitted.components_)
    shares[:count] = np.nan_to_num(fitted.explained_variance_ratio_)
    low, high = np.quantile(points, [CUT, 1 - CUT], axis=0)
    unit = np.where(high > low, np.clip((points - low) / np.maximum(high - low, 1e-12), 0, 1), 0.5)
    return (unit * 255).round().astype(np.uint8).reshape(*tokens.shape[:-1], 3), shares


def _signs(components: np.ndarray) -> np.ndarray:
    """(k,) so that the largest loading of each is positive: a component has no sign of its own."""
    largest = np.abs(components).argmax(1)
    return np.sign(components[np.arange(len(components)), largest])


def mosaic(colours: np.ndarray, places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows * r, columns * c, 3) uint8: tiles of tokens (n, r, c, 3) at their places (n, 2) (column, row) of a grid
    `shape` (rows, columns); white where there is none."""
    rows, columns = colours.shape[1:3]
    out = np.full((shape[0] * rows, shape[1] * columns, 3), 255, np.uint8)
    for tile, (column, row) in zip(colours, places.tolist()):
        out[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = tile
    return out


def beside(image: np.ndarray | None, colours: np.ndarray, words: tuple[str, str], long_side: int = 900) -> np.ndarray:
    """(h, w, 3) uint8: an image and its tokens at one size, words above each; without an image the tokens alone."""
    of = colours if image is None else image
    factor = long_side / max(of.shape[:2])
    size = tuple(max(1, round(side * factor)) for side in of.shape[1::-1])
    parts = [(cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST), words[1], FAINT)]
    if image is not None:
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        parts.insert(0, (cv2.resize(np.ascontiguousarray(image), size, interpolation=method), words[0], INK))
    letters = font(15)
    wide = max(size[0], *(int(letters.getlength(text)) for _, text, _ in parts))
    page = Image.new("RGB", (len(parts) * (wide + MARGIN) + MARGIN, size[1] + HEAD + MARGIN), "white")
    for i, (part, text, ink) in enumerate(parts):
        x = MARGIN + i * (wide + MARGIN)
        page.paste(Image.fromarray(part), (x, HEAD))
        ImageDraw.Draw(page).text((x, 11), text, ink, letters)
    return np.asarray(page)
