"""Writes small .pth files without torch, byte for byte in the two formats of torch.save, for the tests."""

import io
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np

STORAGE = {
    "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
    "int64": "Long", "int32": "Int", "uint8": "Byte", "bool": "Bool",
}  # fmt: skip
BF16 = np.dtype(ml_dtypes.bfloat16)


class Raw(bytes):
    """Opcodes that go into the pickle as they are."""


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module, name, *arguments):
    """Opcodes of module.name(*arguments)."""
    return Raw(f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR")


def emit(value, storages):
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return emit_tensor(value, storages)
    if isinstance(value, dict):
        items = b"".join(emit(k, storages) + emit(v, storages) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, (list, tuple)):
        items = b"(" + b"".join(emit(v, storages) for v in value)
        return items + b"t" if isinstance(value, tuple) else b"]" + items + b"e"
    return pickle.dumps(value, protocol=2)[2:-1]


def emit_tensor(value, storages):
    key, count = str(len(storages)), value.size
    value = value.copy(order="C")
    storages.append(value)
    strides = [step // value.itemsize for step in value.strides]
    pid = text("storage") + f"ctorch\n{STORAGE[str(value.dtype)]}Storage\n".encode() + text(key) + text("cpu")
    pid = b"(" + pid + emit(count, storages) + b"tQ"
    ordered = call("collections", "OrderedDict")
    shape, steps = (emit(tuple(part), storages) for part in (value.shape, strides))
    return call("torch._utils", "_rebuild_tensor_v2", pid, emit(0, storages), shape, steps, b"\x89", ordered)


def save(path, value, root="archive"):
    """Write a zip .pth."""
    storages = []
    data = b"\x80\x02" + emit(value, storages) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", data)
        for key, array in enumerate(storages):
            archive.writestr(f"{root}/data/{key}", array.tobytes())
        archive.writestr(f"{root}/version", b"3\n")
    return path


def save_legacy(path, value):
    """Write a .pth as before PyTorch 1.6."""
    storages = []
    body = b"\x80\x02" + emit(value, storages) + b"."
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    file = io.BytesIO()
    for item in (0x1950A86A20F9469CFC6C, 1001, info):
        pickle.dump(item, file, protocol=2)
    file.write(body)
    pickle.dump([str(key) for key in range(len(storages))], file, protocol=2)
    for array in storages:
        file.write(struct.pack("<q", array.size) + array.tobytes())
    path.write_bytes(file.getvalue())
    return path
