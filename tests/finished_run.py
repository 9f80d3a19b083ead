"""A run's folder as it looks at the end of a training, made without its steps."""

import dataclasses
import json
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from histojax.runs.folder import RunFolder
from histojax.ssl.trainable import whole
from histojax.training.checkpoints import Checkpoints
from histojax.training.recipe import recipe_of
from histojax.training.results import training_tensors, write_layouts
from histojax.weights.licence import CARD, as_rows, chain_of_card

UNI = {"name": "uni", "file": "uni.bin", "sha256": "ab" * 32, "licence": "CC-BY-NC-ND-4.0"}


def tiny_config():
    """The configuration of tests/tiny.py: two blocks, four patches a side."""
    return runpy.run_path(str(Path(__file__).parent / "tiny.py"))["get_config"]()


def make_run(
    folder: Path,
    sources: Sequence[dict] = (UNI,),
    layouts: Sequence[str] = ("meta", "timm"),
    export: bool = True,
    change: Callable = lambda leaf: leaf,
    train: str = "all",
    notes: dict | None = None,
    **leaves,
) -> tuple[Path, object]:
    """(folder, train state on the host) of a run with one checkpoint, of step 0, and an export after 9 steps.

    `change` is applied to every random leaf of the state that is of floating point; `train` says what is trained;
    `notes` are more of those in the checkpoint; `leaves` of the configuration have "__" for their dots.
    """
    config = tiny_config()
    config.model.train, config.export.layouts = train, tuple(layouts)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in leaves.items()})
    with RunFolder(folder) as opened:
        opened.bind(config.to_dict())
    recipe = recipe_of(config)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: recipe.start(recipe.init(jax.random.key(0))))

    def drawn(leaf):
        values = rng.standard_normal(leaf.shape)
        return jnp.asarray(change(values) if jnp.issubdtype(leaf.dtype, jnp.floating) else values, leaf.dtype)

    state = jax.tree.map(drawn, shapes)
    state = dataclasses.replace(state, step=jnp.int32(0))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(state, {"sources": list(sources), **(notes or {})})
    checkpoints.close()
    state = jax.device_get(state)
    if export:
        _export(folder / "export", state, config, sources)
    return folder, state


def _export(folder: Path, state, config, sources: Sequence[dict]) -> None:
    """What training.results.export writes."""
    facts = {"name": "tiny_vit_micro", "starting_weights": list(sources) or "random", "steps": 9}
    facts["recipe"] = config.to_dict()
    teacher = whole(state.parameters("teacher"))
    write_layouts(folder, teacher["backbone"], facts, heads=2)
    files = []
    for side in ("teacher", "student"):
        files.append({"file": f"{side}_checkpoint.safetensors"})
        save_file(training_tensors(side, whole(state.parameters(side))), folder / files[-1]["file"])
    known = {**facts, "weights": files, "licences": as_rows(chain_of_card(facts))}
    (folder / CARD).write_text(json.dumps(known))
