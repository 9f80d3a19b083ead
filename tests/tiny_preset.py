"""A preset of histojax.config at the size of tiny.py, for tests: tiny_preset.py:dinov2, tiny_preset.py:pathology."""

from histojax import config


def get_config(preset):
    c = getattr(config, preset)()
    c.name = f"tiny_{preset}"
    c.epochs, c.epoch_steps, c.stop_step = 4, 3, 4
    c.batch_size = 8
    c.model.update(dict(size="vit_micro", patch=7))
    c.crops.update(dict(global_px=28, local_px=14, local_crops=2))
    c.head.update(dict(prototypes=64, bottleneck=16, hidden=32))
    c.teacher.update(dict(temp_warmup_epochs=1))
    c.optim.update(dict(warmup_epochs=1))
    c.data.update(dict(train="synthetic:64", tile_px=32))
    c.eval.update(dict(every=4, max_tiles=40, image_px=28, batch_size=16, k=5))
    c.checkpoint.every = 4
    c.log.every = 1
    c.monitor.action = "continue"
    return c
