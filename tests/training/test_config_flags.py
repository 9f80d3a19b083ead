"""A configuration from a file and the command line: typed values for every leaf, mistakes in one line."""

import pytest

from histojax.common.errors import UserError
from histojax.config import leaves, paper
from histojax.training.config_flags import read_config, split_leaves

PAPER = "from histojax.config import paper\n\n\ndef get_config():\n    return paper()\n"


def configured(tmp_path, *words):
    file = tmp_path / "config.py"
    file.write_text(PAPER)
    changes, others = split_leaves(words)
    assert others == []
    return read_config(str(file), changes)


@pytest.mark.parametrize(
    ("word", "value"),
    {
        "stop_step=None": None,
        "stop_step=": None,
        "stop_step=2e3": 2000,
        "batch_size=1_024": 1024,
        "optim.base_lr=1e-3": 1e-3,
        "optim.base_lr=1": 1.0,
        "crops.global_scale=(0.4,1)": (0.4, 1),
        "crops.global_scale=0.4, 1.0": (0.4, 1.0),
        "crops.global_scale=[0.4,1]": (0.4, 1),
        "export.layouts=timm": ("timm",),
        "export.layouts=timm,hf": ("timm", "hf"),
        "export.layouts=['timm', 'hf']": ("timm", "hf"),
        "export.layouts=None": (),
        "export.steps=10,20": (10, 20),
        "export.steps=(10,)": (10,),
        "export.steps=7": (7,),
        "export.steps=()": (),
        "mesh.fsdp=1": True,
        "mesh.fsdp=no": False,
        "mesh.fsdp": True,
        "data.train=a.csv,b/": "a.csv,b/",
        "eval.data=None": "",
        "model.weights=": "",
    }.items(),
)
def test_a_value_is_read_by_the_kind_of_its_leaf(word, value, tmp_path):
    config = configured(tmp_path, f"--config.{word}")
    found = config
    for part in word.partition("=")[0].split("."):
        found = found[part]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("name", [name for name, _ in leaves(paper())])
def test_every_leaf_takes_its_own_default_and_none_as_text(name, tmp_path):
    """None unsets a leaf that may be absent, empties text and lists, and is refused in one line by a number."""
    default = dict(leaves(paper()))[name]
    again = dict(leaves(configured(tmp_path, f"--config.{name}={default}")))[name]
    assert again == default
    try:
        none = dict(leaves(configured(tmp_path, f"--config.{name}=None")))[name]
    except UserError as error:
        assert isinstance(default, (bool, int, float)) and f"--config.{name}=None: expected" in str(error)
    else:
        assert none in (None, "", ())


def test_words_apart_and_the_last_value_counts(tmp_path):
    words = ["--config.seed", "3", "--workdir", "x", "--config.mesh.fsdp", "--config.seed=4"]
    changes, others = split_leaves(words)
    assert changes == {"seed": "4", "mesh.fsdp": "true"} and others == ["--workdir", "x"]


@pytest.mark.parametrize(
    ("word", "expected"),
    {
        "batch_size=1.5": "expected a whole number",
        "batch_size=many": "expected a whole number",
        "optim.base_lr=None": "expected a number",
        "mesh.fsdp=maybe": "expected true or false",
        "seed": "needs a value",
    }.items(),
)
def test_a_value_of_another_kind_is_one_line(word, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        configured(tmp_path, f"--config.{word}")


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "def get_config():\n    return paper(\n": r"config\.py:2: SyntaxError",
        "import nothing_of_that_name\n": r"config\.py:1: ModuleNotFoundError",
        "x = 1\n": r"config\.py: has no function get_config",
        "def get_config():\n    return {}\n": "returns dict, expected an ml_collections ConfigDict",
        "def get_config():\n\n    return unknown\n": r"config\.py:3: NameError",
    }.items(),
)
def test_a_file_with_an_error_is_named_with_its_line(text, expected, monkeypatch, tmp_path):
    (tmp_path / "config.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "config.py"), "config.py"):
        with pytest.raises(UserError, match=expected):
            read_config(path, {})


def test_a_word_after_a_colon_goes_to_get_config(tmp_path):
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config(word):\n    return ConfigDict({'name': word})\n"
    )
    assert read_config(f"{tmp_path}/config.py:mine", {}).name == "mine"


def test_a_file_that_lacks_a_leaf_says_so(tmp_path):
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'name': ''})\n"
    )
    with pytest.raises(UserError, match=r"--config\.model\.size: the configuration file has no such leaf"):
        read_config(str(tmp_path / "config.py"), {"model.size": "vit_tiny"})
