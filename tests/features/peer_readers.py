"""Feature files as the scripts of TRIDENT and CLAM read them: their documented layout in plain h5py lines.

Written from the layout alone (names of datasets and attributes), not with anything of histojax.
"""

import h5py
import numpy as np


def trident_coords(path):
    """What TRIDENT's `read_coords` gives, and what its feature extraction then asks of the attributes."""
    with h5py.File(path, "r") as file:
        attrs = dict(file["coords"].attrs)
        coords = file["coords"][:]
    size, level0, target = attrs["patch_size"], attrs["level0_magnification"], attrs["target_magnification"]
    overlap, footprint = attrs.get("overlap", 0), attrs["patch_size_level0"]
    assert all(value is not None for value in (size, level0, target, overlap, footprint))
    return attrs, coords


def trident_features(path):
    """(features, coords, attributes) as Patho-Bench and TRIDENT's slide encoders load them."""
    with h5py.File(path, "r") as file:
        features, coords = file["features"][:], file["coords"][:]
        attrs = {"features": dict(file["features"].attrs), "coords": dict(file["coords"].attrs)}
    return features, coords, attrs


def trident_slide_encoder_batch(path):
    """features and coords with a batch axis, and the footprint, as its slide encoders take them."""
    with h5py.File(path, "r") as file:
        features = np.expand_dims(file["features"][:], 0).astype(np.float32)
        coords = np.expand_dims(file["coords"][:], 0).astype(np.int64)
        footprint = int(file["coords"].attrs["patch_size_level0"])
    return features, coords, footprint


def clam_bag(path):
    """(features, coords) as CLAM's Generic_MIL_Dataset reads a bag with `use_h5`."""
    with h5py.File(path, "r") as file:
        return file["features"][:], file["coords"][:]


def clam_whole_slide_bag(path):
    """The dataset length and rows as CLAM's Whole_Slide_Bag_FP goes through a patches file."""
    with h5py.File(path, "r") as file:
        data = file["coords"]
        return len(data), [data[i] for i in range(len(data))], data.attrs["patch_size"]
