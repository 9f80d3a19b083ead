"""configs/finetune_cpu.py for a small GPU: the same crops and schedules, eight times the tiles a step, twice the steps.

    python -m histojax.train --config configs/finetune_gpu.py --workdir runs/mine --config.data.train=tiles/

Needs: tiles of about 224 px at the resolution of the features, the weights `dinov2_vits14` (downloaded once, 84 MiB),
one GPU, and cores that read 1,290 tiles a second for an L4 at 35 % of its peak. Its plan, compiled and not run:

    $ histojax plan --config configs/finetune_gpu.py --config.data.train=tiles/ --device l4 --quick
    fits        yes: 4.1 GiB of 22.0 GiB (19 %) a device; XLA's plan (jax 0.12.0.1) for batch 256 ... by cudnn
    memory      a device: student 0.1 GiB, teacher 0.1 GiB, optimiser 0.2 GiB; activations ... 3.7 GiB
    operations  8.39 TFLOP a step, 0.0328 an image: teacher 18 %, student 26 %, backward 53 %, heads 3 %
    time        0:01:19 for 400 steps (0.022 hours), if 35 % of the peak is reached (--utilisation)

Time: a minute and a half on an L4 for all 400 steps, where tiles come fast enough (derived; not run). What it gains was
measured on a CPU alone (configs/finetune_cpu.py, 32 tiles a step).
"""

from histojax.config import finetune


def get_config():
    c = finetune()
    c.name = "finetune_gpu"
    c.batch_size = 256
    c.epochs, c.epoch_steps = 10, 40
    c.data.workers = 4
    c.eval.every = 100
    c.checkpoint.every = 100
    c.export.steps = (0, 100, 200, 300)
    return c
