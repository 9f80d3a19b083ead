"""DINOv2's ViT-S/14 continued on your own tiles, by what open encoders of tissue have changed since the paper.

    python -m histojax.train --config configs/pathology_vits14.py --workdir runs/pathology_vits14 \\
        --config.data.train=tiles.csv

Differs from the paper's recipe (configs/nct_vits14.py) in ten leaves: crops lie in all eight positions, their stains
are jittered, colours less so and hue not at all, nothing is solarized, and a kernel density (KDE) spreads the features
instead of KoLeo. Which model each comes from is in histojax.config.pathology; any of them is put back by its leaf, such
as --config.crops.hed_p=0,0,0 or --config.loss.koleo_weight=0.1 --config.loss.kde_weight=0.

Virchow2 and OpenMidnight also keep the magnification, cutting crops from larger tiles almost without resizing them. For
tiles of 392 px at the resolution of the features: --config.data.tile_px=392 --config.crops.aspect=1.05
--config.crops.global_scale=0.265,0.395 --config.crops.local_scale=0.051,0.076 (Virchow2's 0.9 to 1.1 times).

Needs: tiles of about 224 px, the weights `dinov2_vits14` (downloaded once, 84 MiB), one GPU. A step of batch 256 takes
16.6 GiB on an A100 with XLA's attention (planned by `histojax plan`, not run); --config.accumulate=2 takes it in parts.
Time: about 14 minutes on an A100 for all 2,000 steps (derived: 0.175 TFLOP a tile, 35 % of 312 TFLOP/s; not run). What
it gains over the paper's recipe was not measured with this configuration.
"""

from histojax.config import pathology


def get_config():
    c = pathology()
    c.name = "pathology_vits14"
    c.model.weights = "dinov2_vits14"
    c.batch_size = 256
    c.epochs, c.epoch_steps = 100, 100
    c.stop_step = 2000  # as configs/nct_vits14.py; the schedules run to 10,000
    c.data.train = "tiles.csv"
    c.data.workers = 8
    return c
