"""One array as a .pt that torch.load opens, written without torch: a zip archive of a pickle and the numbers."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np


def torch_bytes(array: np.ndarray, name: str) -> bytes:
    """The bytes of `torch.save(tensor)` of a float32 array (n, d); `name` is that of the folder in the archive.

    `torch.load` takes it with `weights_only=True`, too. The same array gives the same bytes.
    """
    values = np.ascontiguousarray(array, "<f4")
    members = {
        "data.pkl": _description(values.shape[0], values.shape[1]),
        "byteorder": b"little",
        "data/0": values.tobytes(),
        "version": b"3\n",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}/{member}"), data)
    return out.getvalue()


def _description(rows: int, width: int) -> bytes:
    """The pickle of a contiguous tensor on the CPU whose numbers are storage 0, as torch itself writes it."""
    storage = [b"(", _text("storage", 1), b"ctorch\nFloatStorage\nq\x02", _text("0", 3), _text("cpu", 4)]
    layout = [
        *(*storage, _whole(rows * width), b"tq\x05Q"),
        _whole(0),
        *(_whole(rows), _whole(width), b"\x86q\x06"),
        *(_whole(width), _whole(1), b"\x86q\x07"),
        b"\x89ccollections\nOrderedDict\nq\x08)Rq\tt",
    ]
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00(" + b"".join(layout) + b"q\nRq\x0b."


def _text(text: str, number: int) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode() + b"q" + bytes([number])


def _whole(number: int) -> bytes:
    """The opcode of a whole number, without what is around it in a pickle of its own."""
    return pickle.dumps(number, 2)[2:-1]
