"""Published weights by name: the encoder records say which file, zoo.hub and zoo.fetch get it."""

from __future__ import annotations

import hashlib
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from histojax.common.errors import UserError
from histojax.common.files import cache_folder, expanded_name
from histojax.weights.containers import check_whole, shard_names
from histojax.weights.licence import Link, card_beside, chain_beside, link
from histojax.zoo import hub
from histojax.zoo.fetch import fetch_url
from histojax.zoo.record import EncoderRecord, WeightFile
from histojax.zoo.table import ENCODERS, find_file
from histojax.zoo.verified import accept, known_sha256

LOCAL = "unknown: a local file"
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".torch")


class Obtained(NamedTuple):
    """A weight file at hand."""

    path: Path
    file: WeightFile  # what is known of it
    licence: str


def obtain(name: str | Path, *, offline: bool = False, cache: str | Path | None = None) -> Obtained:
    """The weight file that `name` says: an existing path, a name or alias of a record or part, or a link.

    Raises UserError for an unknown name, and as `download`.
    """
    name = expanded_name(name)
    if Path(name).exists():
        return Obtained(Path(name), WeightFile(Path(name).name), LOCAL)
    known = record_of(name)
    file, licence = (known[1], known[0].licence) if known else (_file_at(name), "unknown: from a URL")
    return Obtained(download(file, offline=offline, cache=cache), file, licence)


def record_of(name: str | Path) -> tuple[EncoderRecord, WeightFile] | None:
    """(record, its file) that `obtain` takes for a name; None for an existing path, and for the link of another file.

    Raises UserError for an unknown name.
    """
    name = expanded_name(name)
    if Path(name).exists():
        return None
    if urllib.parse.urlsplit(name).scheme in ("http", "https", "file"):
        asked = _file_at(name)
        every = ((record, file) for record in ENCODERS.values() for file in record.weights)
        return next((pair for pair in every if address(pair[1]) == address(asked)), None)
    if Path(name).suffix in ENDINGS and Path(name).name != name:
        raise UserError(f"{name}: no such file")
    return find_file(name)


def _file_at(url: str) -> WeightFile:
    """What is known of the file behind a link."""
    if (file := hub.file_at(url)) is not None:
        return file
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name:
        raise UserError(f"{url}: the URL does not end in a file name")
    return WeightFile(name, url)


def address(file: WeightFile) -> str:
    """Where a file is downloaded from; "" if a program cannot."""
    return hub.address(file) if file.hub else file.url


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


def download(file: WeightFile, *, offline: bool = False, cache: str | Path | None = None) -> Path:
    """Local path of a published file, downloaded once; of an index of shards, with the shards beside it.

    A file that lies in our own cache folder is taken from there, whoever put it there. Else files of the Hugging Face
    hub come into the hub's cache, others into ours.

    Args:
        file: what is known of it.
        offline: never download.
        cache: our cache folder; default $HISTOJAX_CACHE, else ~/.cache/histojax.

    Raises UserError for a file that cannot be had, or is not what was wanted.
    """
    path = _download_one(file, offline, cache)
    if not file.file.endswith(".index.json"):
        return path
    folder = file.file.rpartition("/")[0]
    for name in shard_names(path)[1]:
        shard = WeightFile(f"{folder}/{name}".lstrip("/"), hub=file.hub, page=file.page)
        _download_one(shard, offline, cache)
    return path


def weights_sha256(path: str | Path) -> str:
    """SHA-256 in hex of a weight file; of several shards or files in a folder, that of their names and hashes."""
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in ENDINGS)
    elif path.name.endswith(".index.json"):
        files = [path.parent / name for name in shard_names(path)[1]]
    if len(files) == 1:
        return known_sha256(files[0])
    return hashlib.sha256("\n".join(f"{file.name} {known_sha256(file)}" for file in files).encode()).hexdigest()


def _download_one(file: WeightFile, offline: bool, cache: str | Path | None) -> Path:
    place = cache_folder(cache) / file.cached
    if file.hub and not place.is_file():
        return hub.fetch_from_hub(file, place, check=check_whole, offline=offline)
    if file.hub:
        accept(place, file.sha256, check_whole)
        return place
    return fetch_url(
        file.url,
        place,
        sha256=file.sha256,
        size=file.size,
        page=file.home,
        check=check_whole,
        offline=offline,
    )
