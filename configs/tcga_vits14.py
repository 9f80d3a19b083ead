"""The paper's ViT-S/14 on unlabelled TCGA tiles (Roth, Koch et al. 2023, arXiv 2401.04720), from DINOv2's weights.

    python -m histojax.train --config configs/tcga_vits14.py --workdir runs/tcga_vits14 \\
        --config.data.train=tcga_tiles.csv

Needs: about 2.5 million tiles of 512 px at 0.5 mpp (`histojax tile --preset finetune`, or a CSV of paths), the weights
`dinov2_vits14` (downloaded once, 84 MiB), one GPU: a step of batch 256 takes 15.3 GiB on an A100 (planned by `histojax
plan`, not run); --config.accumulate=2 takes it in parts. Labelled tiles in eval.data are optional; without them the
run reports RankMe, spread and prototype use.
Time: about 3.5 hours on an A100 (derived: 0.175 TFLOP a tile, 35 % of 312 TFLOP/s, 30,000 steps; not run).
"""

from histojax.config import paper


def get_config():
    c = paper()
    c.name = "tcga_vits14"
    c.model.weights = "dinov2_vits14"
    c.batch_size = 256
    c.epochs, c.epoch_steps = 200, 500
    c.stop_step = 30_000  # the published weights; the schedules run to 100,000
    c.data.train = "tcga_tiles.csv"
    c.data.tile_px = 512  # at 0.5 mpp, as histojax tile --preset finetune cuts them; crops of 224 px are drawn from it
    c.data.workers = 8
    return c
