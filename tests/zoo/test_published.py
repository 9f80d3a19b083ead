import hashlib
import json
import runpy
from pathlib import Path

import pytest

from histojax.common.errors import UserError
from histojax.zoo import published
from histojax.zoo.published import address, download, obtain, record_of, weights_sha256
from histojax.zoo.record import WeightFile
from histojax.zoo.table import ENCODERS, find_file

CONFIGS = Path(__file__).parents[2] / "configs"
HUB = WeightFile("model.bin", hub="owner/name")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No token and no endpoint of the machine; a cache of its own."""
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Arguments of the calls of the two fetchers, which write an index of shards instead."""
    made = []

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}))
        return path

    def fetch_url(url, target, **options):
        made.append({"url": url, "target": target, **options})
        return write(target)

    def fetch_from_hub(file, place, **options):
        made.append({"url": address(file), "target": place, "sha256": file.sha256, **options})
        return write(tmp_path / "hub" / file.file)

    monkeypatch.setattr(published, "fetch_url", fetch_url)
    monkeypatch.setattr(published.hub, "fetch_from_hub", fetch_from_hub)
    return made


def test_local_paths_pass_through(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"x")
    for name in (path, str(path)):
        found = obtain(name, offline=True)
        assert found.path == path and found.licence == "unknown: a local file"


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_pretrain.pth"])
def test_names_of_the_table(calls, name):
    found = obtain(name)
    row = ENCODERS["dinov2_vits14"].weights[0]
    assert calls[0]["url"] == row.url and calls[0]["sha256"] == row.sha256 and calls[0]["size"] == row.size
    assert found.licence == "Apache-2.0" and found.path.name == row.file


def test_parts_of_a_training(calls):
    found = obtain("dinov2_vits14_nct_student_dino_head")
    assert calls[0]["url"] == (
        "https://zenodo.org/records/10406135/files/dinov2_vits_NCT_10k_training_1999_student_dino_head_checkpoint.pth"
        "?download=1"
    )
    assert calls[0]["target"] == found.path and found.licence == "see https://zenodo.org/records/10406135"


def test_the_record_that_a_name_asks_for(tmp_path):
    record, file = record_of("UNI_v1")
    assert record.name == "uni" and file == record.weights[0]
    record, file = record_of("dinov2_vits14_nct_student")
    assert record.name == "dinov2_vits14_nct" and file.part == "student"
    assert record_of(ENCODERS["sam_vit_b"].weights[0].url)[0].name == "sam_vit_b"
    for part in ("resolve", "blob"):  # as copied from the hub's pages
        link = f"https://huggingface.co/MahmoodLab/UNI/{part}/main/pytorch_model.bin?download=true"
        assert record_of(link)[0].name == "uni"
    assert record_of(tmp_path) is None and record_of("https://x.example/a.pth") is None


def test_urls(calls):
    assert obtain("https://x.example/folder/my%20file.pth?download=1").path.name == "my file.pth"
    assert calls[0]["sha256"] is None
    assert obtain("https://huggingface.co/datasets/a/b/blob/main/c/d%20e.bin").file == WeightFile(
        "c/d e.bin", hub="datasets/a/b"
    )
    with pytest.raises(UserError, match="does not end in a file name"):
        obtain("https://x.example/")


def test_unknown_names():
    with pytest.raises(UserError, match=r"folder/mine\.pth: no such file"):
        obtain("folder/mine.pth")
    with pytest.raises(UserError, match=r"dinov2_vitz14: neither an existing file nor .* did you mean dinov2_vits14"):
        obtain("dinov2_vitz14")


def test_offline_names_address_and_place(tmp_path):
    with pytest.raises(UserError) as caught:
        obtain("uni", offline=True)
    message = str(caught.value)
    assert "https://huggingface.co/MahmoodLab/UNI/resolve/main/pytorch_model.bin" in message
    assert str(tmp_path / "cache" / "MahmoodLab--UNI" / "pytorch_model.bin") in message


def test_files_that_no_program_can_download():
    with pytest.raises(UserError, match=r"best_ckpt\.pth cannot be .* from https://github\.com/Xiyue-Wang/RetCCL"):
        obtain("retccl")


def test_addresses(monkeypatch):
    assert address(HUB) == "https://huggingface.co/owner/name/resolve/main/model.bin"
    chief = ENCODERS["chief_ctranspath"].weights[0]
    assert address(chief) == (
        "https://huggingface.co/datasets/MahmoodLab/hest-bench/resolve/main/fm_v1/ctranspath/CHIEF_CTransPath.pth"
    )
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert address(HUB) == "https://mirror.example/owner/name/resolve/main/model.bin"


@pytest.mark.parametrize(
    "path", sorted(set(CONFIGS.glob("*.py")) - set(CONFIGS.glob("benchmark_*"))), ids=lambda path: path.stem
)
def test_the_weights_that_configurations_name_are_published(path):
    model = runpy.run_path(str(path))["get_config"]().model
    for name in filter(None, (model.weights, model.continue_from)):
        assert find_file(name)[1].layout in ("meta", "")


def test_an_index_brings_its_shards(calls, tmp_path):
    path = download(WeightFile("model.safetensors.index.json", hub="owner/name", sha256="0" * 64))
    folder = tmp_path / "cache" / "owner--name"
    assert [call["target"] for call in calls] == [
        folder / name for name in ("model.safetensors.index.json", "x-1.safetensors", "x-2.safetensors")
    ]
    assert [call["sha256"] for call in calls] == ["0" * 64, None, None] and path.name.endswith(".index.json")
    assert calls[2]["url"] == "https://huggingface.co/owner/name/resolve/main/x-2.safetensors"


@pytest.mark.parametrize("text, message", [("<html>", "not an index"), ('{"weight_map": {"a": "../x"}}', "outside")])
def test_bad_indices(monkeypatch, tmp_path, text, message):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    monkeypatch.setattr(published.hub, "fetch_from_hub", lambda *_, **__: path)
    with pytest.raises(UserError, match=message):
        download(WeightFile("model.safetensors.index.json", hub="owner/name"))


def test_hashes_of_files_and_folders(tmp_path):
    one, two = tmp_path / "x-1.safetensors", tmp_path / "x-2.safetensors"
    one.write_bytes(b"1")
    assert weights_sha256(one) == weights_sha256(tmp_path) == hashlib.sha256(b"1").hexdigest()
    two.write_bytes(b"2")
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": one.name, "b": two.name}}))
    both = weights_sha256(tmp_path)
    assert both == weights_sha256(index) and len(both) == 64
    two.write_bytes(b"3")
    assert weights_sha256(index) != both
