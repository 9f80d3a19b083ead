"""A run of seconds: two blocks, four patches a side, 64 synthetic tiles."""

from histojax.config import paper


def get_config():
    c = paper()
    c.name = "tiny"
    c.epochs, c.epoch_steps, c.stop_step = 4, 3, 10
    c.batch_size = 8
    c.model.update(dict(size="vit_micro", patch=7))
    c.crops.update(dict(global_px=28, local_px=14, local_crops=2))
    c.head.update(dict(prototypes=64, bottleneck=16, hidden=32))
    c.teacher.update(dict(momentum=0.9, temp_warmup_epochs=1))
    c.optim.update(dict(base_lr=1e-2, warmup_epochs=1))
    c.data.update(dict(train="synthetic:64", tile_px=32))
    c.eval.update(dict(every=4, max_tiles=40, image_px=28, batch_size=16, k=5))
    c.checkpoint.every = 3
    c.log.every = 2
    c.monitor.action = "continue"  # ten steps of a huge learning rate need not look healthy
    return c
