import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_writer import BF16, Raw, call, emit_tensor, save, save_legacy, text
from vit_arrays import GOLDEN, assert_same

from histojax.common.errors import UserError
from histojax.weights.containers import check_whole, open_tensors

EXTRACTORS = GOLDEN / "extractors"
DTYPES = ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]


def arrays():
    made = {name: (np.arange(12).reshape(3, 4) % 5).astype(name) for name in DTYPES}
    return made | {
        "bfloat16": np.arange(6).astype(BF16),
        "scalar": np.array(3, np.float32),
        "none": np.zeros((0, 4), "f4"),
    }


def read(path):
    file = open_tensors(path)
    return file, {name: tensor.numpy() for name, tensor in file.tensors.items()}


@pytest.mark.parametrize(
    "file, container",
    [("format_zip.pth", "zip .pth"), ("format_legacy.pth", "legacy .pth"), ("format.safetensors", "safetensors")],
)
def test_torture_files_of_pytorch(file, container):
    expected = np.load(EXTRACTORS / "format_expected.npz")
    checkpoint, stored = read(EXTRACTORS / file)
    key = "model/" if file.endswith(".pth") else ""
    found = {name.removeprefix(key): value for name, value in stored.items() if name.startswith(key)}
    assert checkpoint.container == container
    assert set(found) == set(expected)
    for name, value in found.items():
        lazy = checkpoint.tensors[key + name]
        assert lazy.shape == value.shape == expected[name].shape and lazy.dtype == value.dtype
        np.testing.assert_array_equal(value.astype(expected[name].dtype), expected[name], err_msg=name)
    assert found["bf16"].dtype == BF16 and found["i16"].dtype == np.int16 and found["bool"].dtype == bool
    if file.endswith(".pth"):
        assert checkpoint.other["epoch"] == "7" and checkpoint.other["args"] == "<argparse.Namespace>"


@pytest.mark.parametrize(
    "file, key, count",
    [
        ("timm_lunit_like_dino_checkpoint.pth", "teacher/", 31),
        ("timm_uni_like_pytorch_model.bin", "", 34),
        ("timm_lunit_like_bf16.safetensors", "", 30),
    ],
)
def test_published_kinds_of_file(file, key, count):
    found = {name: value for name, value in read(EXTRACTORS / file)[1].items() if name.startswith(key)}
    assert len(found) == count and all(np.isfinite(value.astype(np.float32)).all() for value in found.values())


def test_reading_one_tensor_reads_only_its_bytes(tmp_path):
    path = save(tmp_path / "a.pth", {"big": np.zeros(100_000, np.float32), "small": np.arange(4, dtype=np.float32)})
    tensor = open_tensors(path).tensors["small"]
    data = bytearray(path.read_bytes())
    start = bytes(data).index(np.arange(4, dtype=np.float32).tobytes())
    path.write_bytes(data[: start + 16])  # everything behind it is gone
    np.testing.assert_array_equal(tensor.numpy(), [0, 1, 2, 3])


@pytest.mark.parametrize("write", [save, save_legacy])
def test_all_dtypes_and_shapes(write, tmp_path):
    _, found = read(write(tmp_path / "a.pth", arrays()))
    assert_same(found, arrays())


def test_views_share_storages_and_stay_in_them(tmp_path):
    def view(offset, shape, strides):
        def ints(values):
            return b"(" + b"".join(b"M" + struct.pack("<H", n) for n in values) + b"t"

        pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x0ctQ"
        return call(
            "torch._utils", "_rebuild_tensor_v2", pid, b"K%c" % offset, ints(shape), ints(strides), b"\x89", b"}"
        )

    base = np.arange(12, dtype=np.float32)
    good = {
        "base": base,
        "t": view(0, (4, 3), (1, 4)),
        "row": view(4, (4,), (1,)),
        "same": view(5, (2, 2), (0, 0)),
    }
    _, found = read(save(tmp_path / "a.pth", good))
    np.testing.assert_array_equal(found["t"], base.reshape(3, 4).T)
    np.testing.assert_array_equal(found["row"], [4, 5, 6, 7])
    np.testing.assert_array_equal(found["same"], [[5, 5], [5, 5]])
    for bad in (view(9, (4,), (1,)), view(0, (4, 4), (4, 1)), view(0, (2,), (60000,))):
        with pytest.raises(UserError, match="past its storage"):
            open_tensors(save(tmp_path / "b.pth", {"base": base, "bad": bad}))
    with pytest.raises(UserError, match="too large for this file"):
        open_tensors(save(tmp_path / "b.pth", {"base": base, "bad": view(0, (60000, 60000), (0, 0))}))


def test_parameters_and_wrapped_tensors(tmp_path):
    value, storages = np.arange(3, dtype=np.float32), []
    inner = emit_tensor(value, storages)
    parameter = call("torch._utils", "_rebuild_parameter", inner, b"\x88", b"}")
    path = save(tmp_path / "a.pth", {"x": value, "p": parameter})  # storage "0" serves both
    _, found = read(path)
    np.testing.assert_array_equal(found["p"], value)


def test_dicts_in_dicts(tmp_path):
    """Keys are put in front of names; what is no tensor is described."""
    content = {"model": {"state_dict": arrays()}, "optimizer": {"state": {0: {"x": np.ones(2, "f4")}}, "groups": []}}
    file, found = read(save(tmp_path / "a.pth", content | {"epoch": 7, "step": np.zeros((), np.int64)}))
    expected = {f"model/state_dict/{name}": value for name, value in arrays().items()}
    assert_same(found, expected | {"optimizer/state/0/x": np.ones(2, "f4"), "step": np.zeros((), np.int64)})
    assert file.other == {"epoch": "7", "optimizer/groups": "list"}


def test_malicious_file_executes_nothing(tmp_path):
    target = tmp_path / "executed"
    evil = call("os", "mkdir", text(str(target)))
    for write in (save, save_legacy):
        with pytest.raises(UserError, match=r"a\.pth: malicious: .* os\.mkdir; nothing was run"):
            read(write(tmp_path / "a.pth", {"model": arrays(), "hook": evil}))
        assert not target.exists()
    swapped = Raw(bytes(call("builtins", "eval", text(f"__import__('os').mkdir({str(target)!r})"))))
    with pytest.raises(UserError, match=r"malicious: .* builtins\.eval"):
        open_tensors(save(tmp_path / "b.pth", swapped))
    assert not target.exists()


def test_settings_of_a_stranger_are_not_taken_for_malice(tmp_path):
    settings = call("argparse", "Namespace", text("lr"))
    checkpoint, found = read(save(tmp_path / "a.pth", {"model": arrays(), "args": settings}))
    assert len(found) == len(arrays()) and checkpoint.other["args"] == "<argparse.Namespace>"


@pytest.mark.parametrize("write", [save, save_legacy])
def test_truncated_pytorch_files(write, tmp_path):
    path = write(tmp_path / "a.pth", arrays())
    data = path.read_bytes()
    for length in [
        1,
        2,
        7,
        8,
        30,
        100,
        len(data) // 3,
        len(data) // 2,
        len(data) - 40,
        len(data) - 5,
        len(data) - 1,
    ]:
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"a\.pth"):
            open_tensors(path)


def test_truncated_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.ones((8, 8), np.float32), "b": np.ones(4, np.float32)}, path)
    data = path.read_bytes()
    for length in [1, 7, 8, 9, 40, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="download it again"):
            open_tensors(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 15]}},
        {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4]}},
        {"a": {"dtype": "X9", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
        {"a": 5},
    ],
)
def test_damaged_safetensors_headers(header, tmp_path):
    text_ = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text_).to_bytes(8, "little") + text_ + bytes(16))
    with pytest.raises(UserError, match="safetensors"):
        open_tensors(path)


def test_files_without_tensors_say_what_they_hold(tmp_path):
    with pytest.raises(UserError, match="top level: epoch, lr"):
        open_tensors(save(tmp_path / "a.pth", {"epoch": 1, "lr": 0.1}))
    with pytest.raises(UserError, match=r"tensors are in lists, without names: ema \(2 tensors\)"):
        open_tensors(save(tmp_path / "a.pth", {"ema": [np.ones(2, "f4"), np.ones(3, "f4")]}))
    model = call("torchvision.models.resnet", "ResNet")
    with pytest.raises(UserError, match=r"whole pickled torchvision\.models\.resnet\.ResNet"):
        open_tensors(save(tmp_path / "b.pth", model))


def test_shards_and_folders(tmp_path):
    one, two = {"a": np.ones(3, np.float32)}, {"b": np.zeros((2, 2), np.float32)}
    save_file(one, tmp_path / "model-00001-of-00002.safetensors")
    save_file(two, tmp_path / "model-00002-of-00002.safetensors")
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        checkpoint, found = read(path)
        assert checkpoint.container == "sharded safetensors"
        assert_same(found, one | two)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards are missing: model-00002"):
        open_tensors(tmp_path)
    outside = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(outside))
    with pytest.raises(UserError, match="outside its folder"):
        open_tensors(tmp_path)


def test_folders_must_hold_one_weight_file(tmp_path):
    with pytest.raises(UserError, match="found none"):
        open_tensors(tmp_path)
    save(tmp_path / "only.pth", arrays())
    assert open_tensors(tmp_path).path.name == "only.pth"
    save(tmp_path / "second.pth", arrays())
    with pytest.raises(UserError, match=r"only\.pth, second\.pth"):
        open_tensors(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        open_tensors(tmp_path / "absent.pth")


def test_numpy_arrays_inside_a_pickle_are_tensors_too(tmp_path):
    import pickle

    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    _, found = read(save(tmp_path / "a.pth", {"w": Raw(pickle.dumps(value, 2)[2:-1])}))
    np.testing.assert_array_equal(found["w"], value)


@pytest.mark.parametrize("file", ["format_zip.pth", "format_legacy.pth", "format.safetensors"])
def test_random_damage_gives_user_errors_only(file, tmp_path):
    source, rng = (EXTRACTORS / file).read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(source)
        for at in rng.integers(0, min(len(data), 3000), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        (tmp_path / "a.pth").write_bytes(data)
        try:
            read(tmp_path / "a.pth")
        except UserError:
            refused += 1
    assert refused > 50


def test_whole_files_are_told_from_others_under_any_name(tmp_path):
    """A download has a temporary name until it is known to be whole; its tensors and wrappers do not matter then."""
    part = tmp_path / "x.part"
    for name in ("format_zip.pth", "format_legacy.pth", "format.safetensors"):
        content = (EXTRACTORS / name).read_bytes()
        part.write_bytes(content)
        check_whole(part, name)
        part.write_bytes(content[:-20])
        with pytest.raises(UserError, match="truncated"):
            check_whole(part, name)
    part.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    check_whole(part, "model.safetensors.index.json")
    part.write_text('{"weight_map": {"a": "mod')
    with pytest.raises(UserError, match="not an index of shards"):
        check_whole(part, "model.safetensors.index.json")
