"""Files of heads: ours and back, the published ones, and what is none."""

import json

import mil_cases
import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.head_file import CARD, load_head, save_head
from histojax.evaluation.mil.predict import predict
from histojax.weights.containers import open_tensors
from histojax.weights.safetensors_file import write_safetensors


@pytest.mark.parametrize("name", mil_cases.SMALL)
def test_a_saved_head_is_loaded_as_it_was(tmp_path, name):
    head = mil_cases.head(name)
    head = Head(head.settings, head.task, head.classes, head.params, {"history": [{"step": 3}]})
    save_head(tmp_path / "new" / "a.safetensors", head)
    loaded = load_head(tmp_path / "new" / "a.safetensors")
    assert (loaded.settings, loaded.task, loaded.classes, loaded.facts) == (
        head.settings, head.task, head.classes, head.facts,
    )  # fmt: skip
    bags = mil_cases.toy(2)[0]
    np.testing.assert_array_equal(predict(loaded, bags), predict(head, bags))


def test_a_published_head_says_its_settings_by_its_shapes():
    head = load_head(mil_cases.GOLDEN / "mil_transformer_binary.pth", heads=4)
    assert head.settings.inputs == 24 and head.settings.width == 24 and head.settings.depth == 2
    assert head.classes == ("negative", "positive") and head.facts["positive_weight"] > 0
    with pytest.raises(UserError, match="how many heads"):
        load_head(mil_cases.GOLDEN / "mil_transformer_binary.pth")


def test_files_that_are_no_head_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no head"):
        load_head(mil_cases.GOLDEN / "timm_virchow2_like.safetensors")
    with pytest.raises(UserError, match="no such file"):
        load_head(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda card, tensors: card.update(format="histojax head 9"), "not in the format"),
        (lambda card, tensors: card.pop("task"), "damaged"),
        (lambda card, tensors: tensors.pop("head/bias"), "1 parameters do not fit"),
        (lambda card, tensors: tensors.update(more=np.zeros(3, np.float32)), "do not fit"),
        (lambda card, tensors: card["settings"].update(inputs=7), "encoder/kernel"),
    ],
)
def test_damaged_heads_are_refused(tmp_path, change, words):
    save_head(tmp_path / "a.safetensors", mil_cases.head("attention"))
    file = open_tensors(tmp_path / "a.safetensors")
    card, tensors = json.loads(file.metadata[CARD]), {k: v.numpy() for k, v in file.tensors.items()}
    change(card, tensors)
    write_safetensors(tmp_path / "a.safetensors", tensors, {CARD: json.dumps(card)})
    with pytest.raises(UserError, match=words):
        load_head(tmp_path / "a.safetensors")
