"""The paper's ViT-g/14 on NCT-CRC-HE-100K (Roth, Koch et al. 2023, arXiv 2401.04720), from DINOv2's weights.

    python -m histojax.train --config configs/nct_vitg14.py --workdir runs/nct_vitg14 \\
        --config.data.train=NCT-CRC-HE-100K --config.eval.test=CRC-VAL-HE-7K

Needs: the two folders of Zenodo record 1214456, the weights `dinov2_vitg14` (downloaded once, 4.2 GiB), one GPU: a
step of batch 32 takes 29.9 GiB on an A100, one of 312 still fits its 80 GB (planned, `histojax plan`; not run); or
several with --config.mesh.fsdp=true: batch 256 on 8 x A100 takes 10.7 GiB each (planned as well).
Time: about 7.5 hours on one A100 (derived: 9.2 TFLOP a tile, 35 % of 312 TFLOP/s, 10,000 steps; not run).
Expected (the paper, CRC-VAL-HE-7K, balanced accuracy): 20-NN 0.91 before, 0.93 after; linear 0.92 and 0.94.
"""

from histojax.config import paper


def get_config():
    c = paper()
    c.name = "nct_vitg14"
    c.model.update(dict(size="vit_giant2", weights="dinov2_vitg14", remat="block"))
    c.batch_size = 32
    c.epochs, c.epoch_steps = 100, 100
    c.data.train = "NCT-CRC-HE-100K"
    c.data.workers = 8
    c.eval.max_tiles = 8000
    return c
