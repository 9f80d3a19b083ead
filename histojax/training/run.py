"""One run from a checked configuration to its exported weights: opens what it needs, prints the plan, trains."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.common.signals import Stop
from histojax.config import last_step
from histojax.parallel.agreement import Together
from histojax.parallel.backend import is_out_of_memory, start_backend
from histojax.parallel.mesh import make_mesh
from histojax.parallel.processes import started
from histojax.runs.folder import RunFolder, disk_free_check
from histojax.ssl.recipe import Recipe
from histojax.training import results
from histojax.training.check import batch_faults
from histojax.training.evaluation_tiles import open_evaluation, open_training
from histojax.training.first_state import abstract_state
from histojax.training.loop import Loop, Stopped
from histojax.training.plan import plan, state_bytes
from histojax.training.recipe import check_sharers, recipe_of, sharers
from histojax.training.resume import begun_run, check_same_tiles, check_step, facts_of, shards_to_use
from histojax.training.same_everywhere import check_same_config, check_same_everywhere, check_same_folder
from histojax.training.start import Start, load_start
from histojax.zoo.run_checkpoints import newest_step, notes_of


def train(
    config: ConfigDict,
    workdir: Path,
    offline: bool = False,
    plan_only: bool = False,
    catch_signals: bool = False,
) -> int:
    """The exit code of the run of a checked configuration in the folder `workdir`, resumed if it was begun.

    With `catch_signals` the first Ctrl-C or SIGTERM saves and leaves; without, signals do what they did before. Where
    the environment says that this is one process of several (parallel.processes), they run it together.
    """
    with started() as together:
        return _train(together, config, workdir, offline, plan_only, catch_signals)


def tell_others(error: UserError) -> None:
    """Where a process of several cannot even start its run: the others hear why."""
    with started():
        raise error


def _train(
    together: Together, config: ConfigDict, workdir: Path, offline: bool, plan_only: bool, catch_signals: bool
) -> int:
    start_backend(all_memory=not plan_only)
    main = together.main
    with contextlib.ExitStack() as stack:
        stop = Stop(together.leave)
        if catch_signals:
            stack.enter_context(stop.listening())
        folder = stack.enter_context(RunFolder(workdir)) if main and not plan_only else None
        check_same_folder(together, workdir, held=not plan_only)
        check_same_config(together, config)
        earlier = together.from_first(begun_run(workdir, config))
        source = open_training(config)
        tiles = open_evaluation(config, source)
        shards = shards_to_use(config, earlier, jax.device_count())
        facts = facts_of(config, shards, {"training": source.fingerprint(), "evaluation": tiles.fingerprint})
        check_same_everywhere(together, facts["tiles"], tiles)
        if earlier is not None:
            check_same_tiles(workdir, earlier, facts)
        recipe = recipe_of(config, jax.default_backend(), shards)
        _check_devices(config, recipe)
        mesh = make_mesh(sharers(config, jax.device_count()))
        start = _weights(together, config, recipe, workdir, offline)
        if main:
            _say(plan(config, recipe, source, tiles, start))
        if plan_only:
            return 0
        if main:
            disk_free_check(workdir, state_bytes(abstract_state(recipe, None)))  # for one more checkpoint
        loop = Loop(config, recipe, mesh, workdir, source, tiles, start, stop, together)
        stack.callback(loop.close)
        try:
            loop.begin(folder, facts)
            loop.train()
        except Stopped as stopped:
            return stopped.code
        except jax.errors.JaxRuntimeError as error:
            if is_out_of_memory(error):
                raise UserError(_no_memory(config, workdir)) from error
            raise
        if main:
            _say(results.finish(loop))
    return 0


def _weights(together: Together, config: ConfigDict, recipe: Recipe, workdir: Path, offline: bool) -> Start:
    """What the run starts from: its newest checkpoint, or the weights that the configuration names."""
    folder = workdir / "checkpoints"
    begun = together.from_first(newest_step(folder) if together.main else None)
    if begun is None:
        return load_start(config, recipe, offline)
    check_step(workdir, begun, last_step(config))
    return Start(step=begun, sources=notes_of(folder, begun).get("sources", []), report=f"checkpoint of step {begun}")


def _no_memory(config: ConfigDict, workdir: Path) -> str:
    step = newest_step(workdir / "checkpoints")
    kept = "no checkpoint was written yet" if step is None else f"the checkpoint of step {step} is whole"
    return (
        f"the device has no memory left for a step of batch_size={config.batch_size}; {kept}. Set accumulate higher "
        f"than {config.accumulate} (the same batch, in more parts), model.remat=block, or batch_size or "
        "crops.local_crops lower (in another --workdir), or use a device with more memory"
    )


def _check_devices(config: ConfigDict, recipe: Recipe) -> None:
    """Raises UserError for a batch that these devices, or as many shards as they make of it, cannot have."""
    faults = list(batch_faults(config, recipe.shards, jax.device_count()))
    if config.batch_size % jax.device_count():
        faults.append(f"batch_size={config.batch_size} is not a multiple of the {jax.device_count()} devices")
    check_sharers(config, jax.device_count())
    if faults:
        raise UserError(f"{'; '.join(faults)} (change batch_size, or set mesh.batch_shards)")


def _say(words: str) -> None:
    """Prints words with paths in them, of which the terminal's encoding may lack a character."""
    encoding = sys.stdout.encoding or "utf-8"
    print(words.encode(encoding, "backslashreplace").decode(encoding), flush=True)
