"""Published weights by name: the encoder records say which file, histojax.zoo.fetch gets it."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from histojax.common.errors import UserError
from histojax.common.files import expanded_name
from histojax.weights.containers import check_whole
from histojax.weights.licence import Link, card_beside, chain_beside, link
from histojax.zoo.fetch import fetch, known_sha256
from histojax.zoo.record import EncoderRecord, WeightFile
from histojax.zoo.table import ENCODERS, find_file

HUB = "https://huggingface.co"
LOCAL = "unknown: a local file"
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".torch")


class Fetched(NamedTuple):
    """A weight file at hand."""

    path: Path
    file: WeightFile  # what is known of it
    licence: str


def fetch_weights(name: str | Path, *, offline: bool = False, cache: str | Path | None = None) -> Fetched:
    """The weight file that `name` says: an existing path, a name or alias of a record or part, or a URL.

    Raises UserError for an unknown name, and as `weights.fetch.fetch`.
    """
    name = expanded_name(name)
    if Path(name).exists():
        return Fetched(Path(name), WeightFile(Path(name).name), LOCAL)
    if (known := record_of(name)) is not None:
        weights, licence = known[1], known[0].licence
    else:
        file = Path(urllib.parse.unquote(urllib.parse.urlsplit(str(name)).path)).name
        if not file:
            raise UserError(f"{name}: the URL does not end in a file name")
        weights, licence = WeightFile(file, str(name)), "unknown: from a URL"
    return Fetched(fetch_file(weights, offline=offline, cache=cache), weights, licence)


def record_of(name: str | Path) -> tuple[EncoderRecord, WeightFile] | None:
    """(record, its file) that a name asks `fetch_weights` for; None for an existing path, and for a strange URL.

    Raises UserError for an unknown name.
    """
    name = expanded_name(name)
    if Path(name).exists():
        return None
    if urllib.parse.urlsplit(name).scheme in ("http", "https", "file"):
        return next(((r, file) for r in ENCODERS.values() for file in r.weights if address(file) == name), None)
    if Path(name).suffix in ENDINGS and Path(name).name != name:
        raise UserError(f"{name}: no such file")
    return find_file(name)


def record_with(digest: str) -> EncoderRecord | None:
    """The encoder whose published file has this SHA-256, if any is known to."""
    return next((record for record in ENCODERS.values() if record.weights[0].sha256 == digest), None)


def not_published(record: EncoderRecord, file: WeightFile, digest: str) -> str:
    """A note that a file of this SHA-256 is not the encoder's published one, "" if it is, or if nobody knows."""
    known = file.sha256 in (None, digest)
    return "" if known else f"not the published file of {record.name}: its SHA-256 is {file.sha256}"


def licences_of(path: Path, digest: str, *records: EncoderRecord | None) -> tuple[Link, ...]:
    """The licences of a weight file: of the encoders that it is said to be of, and those of the card beside it."""
    chain = chain_beside(path)
    by_file = {one.weights[0]: one for one in reversed(records) if one is not None}  # several may run one file
    for record in by_file.values():
        if all(one.what != record.name for one in chain):
            terms = record.licence, record.commercial, record.derivatives
            chain = (Link(record.name, *terms, path.name, digest), *chain)
    return chain


def licence_chain(path: Path, digest: str, terms: str, *records: EncoderRecord | None) -> tuple[Link, ...]:
    """`licences_of`; of a file that nothing is known of, one link with the `terms` that its user was told.

    () only for a file that was trained from random parameters, as the card beside it says.
    """
    card = card_beside(path)
    chain = licences_of(path, digest, *records)
    if chain or card.get("starting_weights") == "random" or card.get("licences") == []:
        return chain
    return (link(path.name, terms, file=path.name, sha256=digest),)


def fetch_file(file: WeightFile, *, offline: bool = False, cache: str | Path | None = None) -> Path:
    """Local path of a published file, downloaded once; of an index of shards, with the shards beside it.

    A gated file of the hub is asked for with the token of $HF_TOKEN, or of the file that `hf auth login` writes.
    """
    path = _fetch(file, offline, cache)
    if not file.file.endswith(".index.json"):
        return path
    folder = file.file.rpartition("/")[0]
    for name in _shards(path):
        shard = WeightFile(f"{folder}/{name}".lstrip("/"), hub=file.hub, page=file.page)
        _fetch(shard, offline, cache)
    return path


def address(file: WeightFile) -> str:
    """Where a file is downloaded from; "" if a program cannot. $HF_ENDPOINT replaces the hub's host."""
    if not file.hub:
        return file.url
    return f"{_endpoint()}/{file.hub}/resolve/main/{file.file}"


def hub_token() -> str | None:
    """The Hugging Face token of this account: $HF_TOKEN, else the file $HF_TOKEN_PATH, else $HF_HOME/token."""
    if token := os.environ.get("HF_TOKEN", "").strip():
        return token
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text().strip() or None
    except OSError:
        return None


def weights_sha256(path: str | Path) -> str:
    """SHA-256 in hex of a weight file; of several shards or files in a folder, that of their names and hashes."""
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in ENDINGS)
    elif path.name.endswith(".index.json"):
        files = [path.parent / name for name in _shards(path)]
    if len(files) == 1:
        return known_sha256(files[0])
    return hashlib.sha256("\n".join(f"{file.name} {known_sha256(file)}" for file in files).encode()).hexdigest()


def _fetch(file: WeightFile, offline: bool, cache: str | Path | None) -> Path:
    url = address(file)
    return fetch(
        url,
        file.cached,
        sha256=file.sha256,
        size=file.size,
        page=file.home,
        token=hub_token() if file.hub and url.startswith("https://") else None,
        check=check_whole,
        offline=offline,
        cache=cache,
    )


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: not an index of shards (no weight_map); delete it and run again") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"{index}: the index names files outside its folder: {names}")
    return names
