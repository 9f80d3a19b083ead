"""Files and folders that are given as weights and are something else: what they are, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError

HEAD = 512  # bytes from the start of a file that tell what it is
_ANOTHER = "give a .pth or .safetensors file"
_UNPACK = "unpack it and give the weight file in it"
_ONNX = f"an ONNX file, which does not keep the names of parameters; {_ANOTHER} that it was made from"
_SLIDE = f"a slide or a TIFF picture; {_ANOTHER}"
_DCP = "run `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth` and give weights.pth"
_ZERO = "run `python zero_to_fp32.py FOLDER OUT` (DeepSpeed puts it into the folder) and give what it writes"
_ADAPTER = "merge it first: PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(out)"
_TENSORFLOW = f"weights of TensorFlow; {_ANOTHER} of the same model"

_STARTS: tuple[tuple[int, bytes, str], ...] = (  # offset, bytes there, what such a file is and what to do
    (0, b"version https://git-lfs", "a git-lfs pointer, not the weights; run `git lfs pull` or download the file"),
    (0, b"\x93NUMPY", f"a numpy file, not a PyTorch one; {_ANOTHER}"),
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file (weights of Keras, or features); {_ANOTHER}"),
    (2, b"\x12\x07pytorch", _ONNX),
    (0, b"ZISRAWFILE", _SLIDE),
    (0, b"GGUF", f"a GGUF file of llama.cpp; {_ANOTHER} of the same model"),
    (4, b"TFL3", _TENSORFLOW),
    (257, b"ustar", f"a tar archive; {_UNPACK}"),
    (0, b"\x1f\x8b", f"a gzip file; {_UNPACK}"),
    (0, b"BZh", f"a bzip2 file; {_UNPACK}"),
    (0, b"\xfd7zXZ", f"an xz file; {_UNPACK}"),
    (0, b"7z\xbc\xaf'\x1c", f"a 7z archive; {_UNPACK}"),
    (0, b"Rar!", f"a rar archive; {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"a zstd file; {_UNPACK}"),
    *((0, mark, _SLIDE) for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (128, b"DICM", f"a DICOM file; {_ANOTHER}"),
    (0, b"\x89PNG", f"a PNG picture; {_ANOTHER}"),
    (0, b"\xff\xd8\xff", f"a JPEG picture; {_ANOTHER}"),
    (0, b"GIF8", f"a GIF picture; {_ANOTHER}"),
    (0, b"%PDF", f"a PDF document; {_ANOTHER}"),
    (0, b"SQLite format 3", f"an SQLite database; {_ANOTHER}"),
)
_ENDINGS = {  # of names, for formats that do not begin with a mark
    ".onnx": _ONNX,
    ".pb": _TENSORFLOW,
    ".msgpack": f"weights of Flax; {_ANOTHER} of the same model",
    ".distcp": f"one shard of a checkpoint of torch.distributed; {_DCP}",
    ".ckpt.index": _TENSORFLOW,
    ".data-00000-of-00001": _TENSORFLOW,
}
_FOLDERS = (  # pattern of a file in it, what such a folder is and what to do
    ("*.distcp", f"a checkpoint of torch.distributed; {_DCP}"),
    ("zero_pp_rank_*", f"a DeepSpeed checkpoint in parts; {_ZERO}"),
    ("*/zero_pp_rank_*", f"a DeepSpeed checkpoint in parts; {_ZERO}"),
    ("adapter_config.json", f"a peft adapter, which is a change to a model and not the model; {_ADAPTER}"),
    ("saved_model.pb", _TENSORFLOW),
    ("tf_model.h5", _TENSORFLOW),
    ("*.ckpt.index", _TENSORFLOW),
    ("snapshots/*", "a folder of the Hugging Face cache; give one of the folders in its snapshots/"),
    ("flax_model.msgpack", _ENDINGS[".msgpack"]),
    ("provenance.json", "the folder of a training run; histojax export takes it"),
    ("_CHECKPOINT_METADATA", "an Orbax checkpoint; histojax export takes the folder of its run"),
    ("*-of-*.safetensors", "shards without their index; download model.safetensors.index.json, too"),
    ("*-of-*.bin", "shards without their index; download pytorch_model.bin.index.json, too"),
    *((f"*{ending}", "a folder of pictures or slides; give weights") for ending in (".svs", ".tif", ".png", ".jpg")),
)
_MEMBERS = (  # part of a member's name in a zip file, what such a file is and what to do
    ("/code/__torch__", "TorchScript; in PyTorch, save torch.jit.load(file).state_dict() with torch.save"),
    ("serialized_exported_program", "a program of torch.export; save the state_dict() of its model with torch.save"),
    ("model.weights.h5", f"a Keras model; {_ANOTHER} of the same model"),
    (".npy", f"a numpy .npz, not a PyTorch file; {_ANOTHER}"),
)
_NAMES = (  # part of a tensor's name, what has such names and what to do
    ("lora_A.", f"a LoRA adapter, or a model that is not merged with one; {_ADAPTER}"),
    ("flat_param", "flat shards of FSDP; in the training, save with StateDictType.FULL_STATE_DICT"),
    (".quant_state.", "quantised weights; give the ones they were made from"),
    (".qweight", "quantised weights; give the ones they were made from"),
    (".SCB", "quantised weights; give the ones they were made from"),
    ("text_model.", "a CLIP model with its text tower, which is not read here"),
    ("visual.transformer.resblocks.", "an OpenAI CLIP model, which is not read here"),
    ("visual.trunk.", "an open_clip or CoCa model (CONCH), which is not read here"),
    ("beit3.", "a BEiT-3 model (MUSK), which is not read here"),
    ("resnet.encoder.stages.", "a ResNet of Hugging Face transformers, which is not read here"),
    ("stages.0.blocks.", "a ConvNeXt, which is not read here"),
    ("attention_c.", "an attention-MIL head, which is not read here"),
    ("transformer.layers.", "a transformer over features (a MIL head), not an image encoder"),
    # transformers 5 renames modules in memory, but not in the files that it writes
    (".attention.q_proj.", "a state dict of transformers 5 in memory: write it with model.save_pretrained(folder)"),
)
_FULL = "in the training, save full tensors (torch.distributed.checkpoint.state_dict, full_state_dict=True)"
_OBJECTS = (  # part of a class's name in a pickle, what stands for tensors and what to do
    ("DTensor", f"distributed tensors (DTensor), of which this is one process's part; {_FULL}"),
    ("_rebuild_wrapper_subclass", f"distributed tensors (DTensor), of which this is one process's part; {_FULL}"),
    ("ShardedTensor", f"sharded tensors of FSDP, of which this is one process's part; {_FULL}"),
    ("_rebuild_qtensor", "quantised tensors; give the weights they were made from"),
    ("_rebuild_sparse_tensor", "sparse tensors; save them dense"),
)


def refuse_file(path: Path, head: bytes, size: int) -> None:
    """Raise UserError for a file whose first bytes (HEAD of them) or name say that it is no file of weights."""
    if size == 0:
        raise UserError(f"{path}: the file is empty; the download failed, get it again")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise UserError(
            f"{path}: this is a web page, not weights; the link needs a login or was wrong: download by hand"
        )
    what = [text for at, mark, text in _STARTS if head[at:].startswith(mark)]
    what += [text for ending, text in _ENDINGS.items() if path.name.endswith(ending)]
    if what:
        raise UserError(f"{path}: this is {what[0]}")
    if (text := _text(head)) and size > 8:
        raise UserError(f"{path}: this is text and not weights, it starts with {text[:60]!r}; download the file itself")


def refuse_folder(path: Path) -> None:
    """Raise UserError for a folder that holds files of some other kind of checkpoint."""
    for pattern, what in _FOLDERS:
        if next(path.glob(pattern), None) is not None:
            raise UserError(f"{path}: this is {what}")


def refuse_zip(path: Path, members: Collection[str]) -> None:
    """Raise UserError for a zip file that torch.save has not written."""
    for mark, what in _MEMBERS:
        if any(mark in f"/{name}" for name in members):
            raise UserError(f"{path}: this is {what}")
    if not any(name.rpartition("/")[2] == "data.pkl" for name in members):
        first = ", ".join(list(members)[:3]) or "empty"
        raise UserError(f"{path}: no data.pkl inside: this is some other zip ({first}), not a PyTorch file; {_UNPACK}")


def refuse_objects(path: Path, values: Iterable[Any]) -> None:
    """Raise UserError if what stands for tensors in a pickle are parts of them, or stored in another way."""
    names = {f"{getattr(value, 'name', '')} {getattr(value, 'args', '')}"[:2000] for value in values}
    for mark, what in _OBJECTS:
        if any(mark in name for name in names):
            raise UserError(f"{path}: holds {what}")


def refuse_deepspeed(path: Path, root: Any) -> None:
    """Raise UserError for one file of a DeepSpeed checkpoint whose parameters are in others."""
    if isinstance(root, Mapping) and {"ds_version", "ds_config", "zero_stage"} & set(map(str, root)):
        raise UserError(f"{path}: holds one part of a DeepSpeed checkpoint, without its parameters; {_ZERO}")


def known_stranger(names: Iterable[str]) -> str:
    """Return what has tensors of such names and is not read here, with the remedy; "" if that is not known."""
    names = [f".{name}" for name in names]
    return next((what for mark, what in _NAMES if any(mark in name for name in names)), "")


def _text(head: bytes) -> str:
    """Return the first line if a file begins with plain text, "" if not."""
    try:
        text = head.decode("ascii").strip()
    except UnicodeDecodeError:
        return ""
    return text.splitlines()[0] if text and all(c.isprintable() or c in "\r\n\t" for c in text) else ""
