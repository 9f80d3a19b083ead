"""A weight file to its tree in one call, for the tests."""

from typing import Any, NamedTuple

from histojax.weights.backbone import Weights, open_backbone
from histojax.weights.report import Report


class Read(NamedTuple):
    family: str
    layout: str
    tree: dict[str, Any]
    report: Report
    notes: list[str]


def read_tree(path, *, expected=None, ignore=(), **options) -> Read:
    opened = open_backbone(path, **options)
    return Read(opened.family, opened.layout.name, *opened.read(expected, ignore))


def read_to_train(path, which=None, *, expected=None) -> Weights:
    return open_backbone(path, family="vit", which=which).read_to_train(expected)
