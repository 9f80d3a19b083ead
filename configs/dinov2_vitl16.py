"""DINOv2 from random weights on your own tiles: ViT-L/16, drop path, softmax centering, blur as intended.

    python -m histojax.train --config configs/dinov2_vitl16.py --workdir runs/dinov2_vitl16 \\
        --config.data.train=tiles.csv

The settings of the released short ViT-L/16 configuration (Oquab et al. 2023; batch 2048, 125,000 steps), KoLeo's
epsilon aside. Finetuning published weights (configs/nct_vits14.py) is what most laboratories want instead.

Needs: millions of tiles of 224 px or more and several accelerators; --config.mesh.fsdp=true splits the state.
Time: about 760 hours of one A100, shared by as many as there are (derived: 1.16 TFLOP a tile, 35 % of 312 TFLOP/s,
256 million tiles; not run).
"""

from histojax.config import dinov2


def get_config():
    c = dinov2()
    c.name = "dinov2_vitl16"
    c.data.train = "tiles.csv"
    c.data.workers = 16
    return c
