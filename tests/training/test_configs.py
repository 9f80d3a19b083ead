"""Every file of configs/ is a possible run, explains itself, and says what the paper's settings are."""

import importlib.util
from pathlib import Path

import pytest

from histojax.common.errors import UserError
from histojax.config import last_step, leaves, paper, pathology, total_steps
from histojax.ssl.schedules import scaled_lr
from histojax.training.check import batch_faults, check

FILES = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
    if not path.stem.startswith("benchmark_")  # tests/test_benchmark_command.py
]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_is_possible_and_explains_itself(path):
    module = load(path)
    config = module.get_config()
    assert config.name == path.stem
    assert config.eval.test == "" and config.eval.data in ("", "synthetic:1200")  # runs with data.train alone
    config.data.train = config.data.train or "tiles"
    check(config)
    assert f"python -m histojax.train --config configs/{path.name} --workdir " in module.__doc__
    assert "Needs:" in module.__doc__
    assert "Time:" in module.__doc__
    assert "(measured" in module.__doc__ or "(derived" in module.__doc__


def test_all_configs_are_there():
    names = {path.stem for path in FILES}
    assert {"quickstart", "nct_vits14", "nct_vitg14", "tcga_vits14", "tcga_vitg14", "small_cpu"} <= names
    assert {"pathology_vits14", "finetune_cpu", "finetune_gpu"} <= names


@pytest.mark.parametrize(
    ("name", "size", "batch", "lr", "total", "last", "warmup"),
    [
        ("nct_vits14", "vit_small", 256, 1e-4, 10_000, 2_000, 1_000),
        ("nct_vitg14", "vit_giant2", 32, 3.5355e-5, 10_000, 10_000, 1_000),
        ("tcga_vits14", "vit_small", 256, 1e-4, 100_000, 30_000, 5_000),
        ("tcga_vitg14", "vit_giant2", 32, 3.5355e-5, 100_000, 60_000, 5_000),
    ],
)
def test_the_settings_of_the_paper(name, size, batch, lr, total, last, warmup):
    config = load(next(path for path in FILES if path.stem == name)).get_config()
    assert (config.model.size, config.batch_size) == (size, batch)
    assert scaled_lr(config.optim.base_lr, batch) == pytest.approx(lr, rel=1e-4)
    assert (total_steps(config), last_step(config)) == (total, last)
    assert config.optim.warmup_epochs * config.epoch_steps == warmup
    assert config.head.prototypes == 65536 and not config.ibot_head.separate
    assert config.loss.koleo_eps == 1e-4 and config.crops.vflip == 0.5


def test_the_gpu_finetunes_by_the_recipe_that_was_measured_on_a_cpu():
    cpu, gpu = (dict(leaves(load(path).get_config())) for path in FILES if path.stem.startswith("finetune_"))
    ways = ("batch_size", "epoch_steps", "data.workers", "eval.every", "eval.max_tiles", "checkpoint.every")
    assert {name for name, value in cpu.items() if value != gpu[name]} <= {"name", "export.steps", *ways}
    assert cpu["crops.hed_p"] == (1.0, 1.0, 1.0) and cpu["teacher.momentum"] < 0.95 and cpu["model.grid_px"] == 224


def test_the_pathology_preset_differs_from_the_paper_in_these_leaves_alone():
    ours, papers = dict(leaves(pathology())), dict(leaves(paper()))
    assert {name: value for name, value in ours.items() if value != papers[name]} == {
        "name": "pathology",
        "crops.transpose": 0.5,
        "crops.hed_p": (1.0, 1.0, 1.0),
        "crops.solarize_p": 0.0,
        "crops.brightness": 0.2,
        "crops.contrast": 0.2,
        "crops.hue": 0.0,
        "crops.grayscale_p": 0.1,
        "loss.koleo_weight": 0.0,
        "loss.kde_weight": 0.05,
    }


def possible():
    config = paper()
    config.data.train = "tiles"
    return config


IMPOSSIBLE = {
    "model.patch": 0,
    "batch_size": 0,
    "eval.split_seed": -1,
    "eval.test_share": 1.0,
    "eval.validation_share": 1.0,
    "crops.blur_p": (0.5, 0.1),
    "crops.hed_p": (0.5, 0.1, 1.1),
    "crops.hed_shift": -0.1,
    "crops.transpose": 1.5,
    "crops.aspect": 0.9,
    "crops.global_scale": (0.0, 0.0),
    "crops.local_scale": (0.3, 0.1),
    "crops.hue": 0.6,
    "masks.probability": 0.0,
    "masks.ratio": (0.1, 1.1),
    "loss.student_temp": 0.0,
    "teacher.temp": 0.0,
    "loss.koleo_eps": float("nan"),
    "model.layerscale": float("nan"),
    "model.drop_path": 1.0,
    "optim.beta1": 1.0,
    "optim.base_lr": float("inf"),
    "optim.warmup_epochs": -1,
    "model.train": "last:13",
    "export.steps": (-1,),
    "export.layouts": ("onnx",),
    "eval.image_px": 225,
    "model.grid_px": 225,
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_leaf_is_named(name):
    config = possible()
    check(config)
    with config.ignore_type():
        config.update_from_flattened_dict({name: IMPOSSIBLE[name]})
    with pytest.raises(UserError, match=rf"^config: {name}=[^;]*$"):
        check(config)


def test_impossible_together():
    config = possible()
    config.batch_size = 2
    config.masks.probability = 0.2
    with pytest.raises(UserError, match=r"masks\.probability=0\.2 masks none of the 4 global crops"):
        check(config)
    config.loss.koleo_weight, config.batch_size, config.masks.probability = 0.0, 1, 0.5
    check(config)
    config.mesh.batch_shards = 2
    with pytest.raises(UserError, match=r"batch_size=1 is not a multiple of its 2 shards"):
        check(config)
    config = possible()
    config.batch_size, config.accumulate = 12, 3
    check(config)
    (fault,) = batch_faults(config, 2, 8)
    assert fault.endswith("each needs a multiple of 8 images (the shards and devices)")
    config.accumulate = 5
    with pytest.raises(UserError, match="accumulate=5 parts do not divide batch_size=12 evenly"):
        check(config)
    config = possible()
    config.model.attention, config.compute_dtype = "cudnn", "float32"
    with pytest.raises(UserError, match="cudnn needs compute_dtype=bfloat16"):
        check(config)
