"""What is given as weights and is none: each is named, with what to do, in one line."""

import zipfile

import numpy as np
import pytest
from reading import read_tree
from safetensors.numpy import save_file
from torch_writer import Raw, call, emit, save, text

from histojax.common.errors import UserError


def refusal(path):
    with pytest.raises(UserError) as error:
        read_tree(path)
    message = str(error.value)
    assert "\n" not in message and path.name in message
    return message


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.pth", b"", "empty"),
        ("pytorch_model.bin", b"<!DOCTYPE html><html>", "web page"),
        ("a.pth", b"\n  <html>", "web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.pth", b"Access to model bioptimus/H-optimus-1 is restricted.", "text and not weights"),
        ("config.json", b'{\n "model": 1\n}', "text and not weights, it starts with '{'"),
        ("a.pth", b"GIF89a" + bytes(50), "a GIF picture"),
        ("a.bin", b"\x07\x07" + bytes(50), "neither a PyTorch file nor safetensors"),
        ("a.pth", b"\x80\x02K\x01.", "plain pickle"),
        ("a.pth", b"\x93NUMPY\x01\x00", "numpy"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch\x1a", "an ONNX file"),
        ("model.bin", b"\x08\x07\x12\x07pytorch\x1a", "an ONNX file"),
        ("a.czi", b"ZISRAWFILE" + bytes(9), "a slide"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
        ("saved_model.pb", b"\x08\x01\x12\x00", "TensorFlow"),
        ("model.ckpt.index", b"\x00\x00\x02", "TensorFlow"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "TensorFlow"),
        ("flax_model.msgpack", b"\x82\xa6", "Flax"),
        ("a.gguf", b"GGUF\x03\0\0\0", "GGUF"),
        ("TCGA-AA-3488.svs", b"II*\0" + bytes(90), "a slide or a TIFF picture"),
        ("big.tif", b"II+\0" + bytes(90), "a slide or a TIFF picture"),
        ("a.dcm", bytes(128) + b"DICM", "DICOM"),
        ("a.tar", b"x/".ljust(257, b"\0") + b"ustar\x0000", "tar archive; unpack"),
        ("a.tar.gz", b"\x1f\x8b\x08", "gzip file; unpack"),
        ("__0_0.distcp", b"PK\x03\x04", "dcp_to_torch"),
    ],
)
def test_files_of_other_kinds(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "members, message",
    [
        (["x.npy"], "a numpy .npz"),
        (
            ["a/weights.pth", "a/readme.txt"],
            r"some other zip (a/weights.pth, a/readme.txt), not a PyTorch file; unpack",
        ),
        (["m/data.pkl", "m/code/__torch__/m.py", "m/constants.pkl"], "TorchScript; in PyTorch, save torch.jit.load"),
        (["config.json", "model.weights.h5"], "Keras"),
        (["archive/serialized_exported_program.json"], "torch.export"),
    ],
)
def test_other_zips(members, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for member in members:
            archive.writestr(member, "x")
    assert message in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "files, message",
    [
        ([".metadata", "__0_0.distcp"], "checkpoint of torch.distributed; run `python -m"),
        (["zero_to_fp32.py", "global_step9/zero_pp_rank_0_mp_rank_00_optim_states.pt"], "zero_to_fp32.py FOLDER OUT"),
        (["adapter_config.json"], "peft adapter"),
        (["saved_model.pb", "variables/x"], "TensorFlow"),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors"], "download model.safetensors.index.json"),
        (["provenance.json", "config.json"], "histojax export takes it"),
        (["snapshots/abc", "blobs/x"], "Hugging Face cache"),
        (["slide.svs"], "pictures or slides"),
    ],
)
def test_folders_of_other_kinds(files, message, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    "names, message",
    [
        (["visual.transformer.resblocks.0.attn.in_proj_weight", "text_model.x"], "CLIP model"),
        (["transformer.layers.0.0.norm.weight"], "MIL head"),
        (["encoder.layer.0.attention.q_proj.weight", "embeddings.cls_token"], "save_pretrained"),
        (["base_model.model.blocks.0.attn.qkv.lora_A.weight"], "merge it first: PeftModel"),
        (["_fsdp_wrapped_module._flat_param"], "FULL_STATE_DICT"),
        (["layer.0.q.weight", "layer.0.q.weight.quant_state.bitsandbytes__nf4"], "quantised"),
    ],
)
def test_tensors_of_other_kinds(names, message, tmp_path):
    save_file({name: np.eye(2, dtype=np.float32) for name in names}, tmp_path / "a.safetensors")
    assert message in refusal(tmp_path / "a.safetensors")


def wrapped(kind):
    """What torch.save makes of a tensor of a class of its own."""
    function, cls = (Raw(f"c{name[0]}\n{name[1]}\n".encode()) for name in ((
        "torch._utils", "_rebuild_wrapper_subclass"), ("torch.distributed.tensor", kind)))  # fmt: skip
    return call("torch._tensor", "_rebuild_from_type_v2", function, cls, emit((cls, 1), []), b"}")


def test_parts_of_distributed_training(tmp_path):
    plain = {"norm.weight": np.ones(3, np.float32)}
    assert "DTensor" in refusal(save(tmp_path / "a.pth", {"model": plain | {"cls_token": wrapped("DTensor")}}))
    part = call("torch.distributed._shard.sharded_tensor.api", "ShardedTensor", text("x"))
    assert "ShardedTensor" not in (told := refusal(save(tmp_path / "b.pth", plain | {"cls_token": part})))
    assert "sharded tensors of FSDP" in told
    nothing = {"module": {"cls_token": np.zeros(0, np.float32)}, "ds_version": "0.14", "ds_config": {}}
    assert "zero_to_fp32.py" in refusal(save(tmp_path / "c.pth", nothing))
