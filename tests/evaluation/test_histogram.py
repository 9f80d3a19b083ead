import numpy as np
import pytest

from histojax.evaluation.histogram import colour_histogram
from histojax.evaluation.knn import knn_predict


def test_by_hand():
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0, 0] = (255, 0, 128)  # levels 7, 0, 4
    image[0, 0, 1] = (31, 32, 0)  # levels 0, 1, 0
    expected = np.zeros(512)
    expected[[7 * 64 + 4, 8, 0]] = np.sqrt([0.25, 0.25, 0.5])
    found = colour_histogram(image)
    assert found.shape == (1, 512) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, atol=1e-7)


def test_against_numpy_histogramdd():
    images = np.random.default_rng(0).integers(0, 256, (3, 7, 5, 3), dtype=np.uint8)
    for row, image in zip(colour_histogram(images, bins=4), images):
        counts, _ = np.histogramdd(image.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)
        np.testing.assert_allclose(row**2, counts.ravel() / 35, atol=1e-6)


def test_separates_stains_and_is_blind_to_structure():
    rng = np.random.default_rng(1)
    base = np.array([[220, 150, 190], [120, 80, 160]])
    labels = np.arange(40) % 2
    images = np.clip(base[labels][:, None, None] + rng.normal(0, 20, (40, 16, 16, 3)), 0, 255).astype(np.uint8)
    features = colour_histogram(images)
    assert (knn_predict(features[:30], labels[:30], features[30:], k=5) == labels[30:]).all()
    mixed = images.reshape(40, 256, 3)[:, rng.permutation(256)].reshape(images.shape)
    np.testing.assert_array_equal(colour_histogram(mixed), features)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((1, 0, 4, 3), np.uint8)]
)
def test_bad_images(images):
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        colour_histogram(images)
