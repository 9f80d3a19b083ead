"""Going on with a run: what may be said otherwise, and what has to be the same whatever it is called now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.runs.folder import check_folder, stored_run

MAY_CHANGE = (
    *("name", "stop_step", "log", "checkpoint", "data.workers", "data.max_bad_share"),
    *("eval.batch_size", "monitor.action", "mesh.fsdp", "mesh.fsdp_devices"),
)
TILES = ("data.train", "eval.data", "eval.test")  # may be placed or written otherwise if they are the same tiles


def begun_run(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """What is known of the run that `workdir` holds, None if none was begun: {"batch_shards", "tiles"}.

    Raises UserError if that run is one of another configuration. Leaves that name tiles are compared by
    `check_same_tiles`, once these are open.
    """
    stored = stored_run(workdir)
    if stored is None:
        return None
    facts = stored["facts"]
    check_folder(workdir, config.to_dict(), MAY_CHANGE + (TILES if facts.get("tiles") else ()))
    return facts


def facts_of(config: ConfigDict, batch_shards: int, fingerprints: dict[str, str]) -> dict[str, Any]:
    """What a later start has to know: the parts of a batch, and {set of tiles: fingerprint}."""
    said = {"training": config.data.train, "evaluation": f"{config.eval.data} {config.eval.test}".strip()}
    tiles = {name: {"said": said[name], "fingerprint": value} for name, value in fingerprints.items()}
    return {"batch_shards": batch_shards, "tiles": tiles}


def check_same_tiles(workdir: Path, facts: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError if a set of tiles is not the one that the run began with, wherever it lies."""
    for name, is_now in now["tiles"].items():
        was = facts.get("tiles", {}).get(name)
        if was is not None and was["fingerprint"] != is_now["fingerprint"]:
            before = was["said"] or "the training tiles"
            raise UserError(
                f"{workdir}: the {name} tiles are not those that this run began with ({before}): names, sizes or "
                f"labels differ in {is_now['said'] or 'the training tiles'}. Put them back (another place or spelling "
                "is fine), or choose another --workdir"
            )


def shards_to_use(config: ConfigDict, facts: dict[str, Any] | None, devices: int) -> int:
    """Parts of a batch: what the configuration says, else as the run began, else one a device."""
    stored = (facts or {}).get("batch_shards")
    return config.mesh.batch_shards or stored or devices


def check_step(workdir: Path, begun: int, last: int) -> None:
    """Raises UserError if the run is already past the last step that is asked for."""
    if begun > last:
        raise UserError(
            f"{workdir}: the run is at step {begun}, past the last step {last} asked for; give a later stop_step (or "
            "None for all steps), or choose another --workdir"
        )
