"""The paper's ViT-g/14 on unlabelled TCGA tiles (Roth, Koch et al. 2023, arXiv 2401.04720), from DINOv2's weights.

    python -m histojax.train --config configs/tcga_vitg14.py --workdir runs/tcga_vitg14 \\
        --config.data.train=tcga_tiles.csv

Needs: about 2.5 million tiles of 512 px at 0.5 mpp (`histojax tile --preset finetune`, or a CSV of paths), the weights
`dinov2_vitg14` (downloaded once, 4.2 GiB), one GPU: a step of batch 32 takes 29.9 GiB on an A100 (planned, `histojax
plan`; not run); or several with --config.mesh.fsdp=true: batch 256 on 8 x A100 takes 10.7 GiB each (planned as well).
Time: about 45 hours on one A100 (derived: 9.2 TFLOP a tile, 35 % of 312 TFLOP/s, 60,000 steps; not run).
"""

from histojax.config import paper


def get_config():
    c = paper()
    c.name = "tcga_vitg14"
    c.model.update(dict(size="vit_giant2", weights="dinov2_vitg14", remat="block"))
    c.batch_size = 32
    c.epochs, c.epoch_steps = 200, 500
    c.stop_step = 60_000  # the published weights; the schedules run to 100,000
    c.data.train = "tcga_tiles.csv"
    c.data.tile_px = 512  # at 0.5 mpp, as histojax tile --preset finetune cuts them; crops of 224 px are drawn from it
    c.data.workers = 8
    return c
