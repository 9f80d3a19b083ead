"""Lets torchvision be imported beside a torch build that lacks its compiled operators (a CPU torch from one index and
a CUDA torchvision from another): timm and transformers need its Python part only."""

import importlib.util

if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # operator torchvision::nms does not exist
        _LIBRARY = torch.library.Library("torchvision", "DEF")
        for _name in ("nms", "qnms"):
            _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
