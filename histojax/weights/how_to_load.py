"""How another library loads what we write: the lines of Python, and what it would get wrong without them."""

from __future__ import annotations

from histojax.weights.library_configs import Shape, meta_call

# (layout, family): epsilons of LayerNorm that the library's network has, or is told by its config.json
_EPSILONS = {
    ("timm", "vit"): (1e-6,),
    ("timm", "beit"): (1e-6,),
    ("timm", "sam"): (1e-6, 1e-5),
    ("timm", "swin"): (1e-5,),
    ("meta", "vit"): (1e-6,),
}
# (layout, pooling): from x (N, 3, height, width) to the feature; {prefix} tokens are in front of the patches
_FEATURES = {
    ("timm", "cls"): ("features = model(x)",),
    ("timm", "cls+mean"): (
        "tokens = model.forward_features(x)",
        "features = torch.cat([tokens[:, 0], tokens[:, {prefix}:].mean(1)], dim=-1)",
    ),
    ("timm", "mean"): ("features = model.forward_features(x)[:, {prefix}:].mean(1)",),
    ("timm", "norm_of_mean"): ("features = model(x)",),
    ("timm", "prenorm_mean"): (
        'tokens = model.forward_intermediates(x, indices=1, output_fmt="NLC", intermediates_only=True)[0]',
        "features = tokens.mean(1)  # of the last block, before the norm, without the class token",
    ),
    ("timm", "last_stage"): ("features = model(x)",),
    ("timm", "neck_mean"): ("features = model(x)",),
    ("hf", "cls"): ("features = model(x).last_hidden_state[:, 0]",),
    ("hf", "cls+mean"): (
        "tokens = model(x).last_hidden_state",
        "features = torch.cat([tokens[:, 0], tokens[:, {prefix}:].mean(1)], dim=-1)",
    ),
    ("hf", "mean"): ("features = model(x).last_hidden_state[:, {prefix}:].mean(1)",),
    ("hf", "norm_of_mean"): ("features = model(x).pooler_output",),
    ("hf", "prenorm_mean"): ("features = model(x, output_hidden_states=True).hidden_states[-1][:, 1:].mean(1)",),
    ("hf", "neck_mean"): ("features = model(x).last_hidden_state.mean((2, 3))",),
    ("meta", "cls"): ("features = model(x)",),
    ("meta", "cls+mean"): (
        "tokens = model.forward_features(x)",
        'features = torch.cat([tokens["x_norm_clstoken"], tokens["x_norm_patchtokens"].mean(1)], dim=-1)',
    ),
}
_TENSORS = 'safetensors.torch.load_file("model.safetensors")'


def other_epsilon(layout: str, family: str, eps: float) -> bool:
    """Return whether the library would build the network with another epsilon than it was trained with."""
    return (layout, family) in _EPSILONS and eps not in _EPSILONS[layout, family]


def epsilon_warning(layout: str, family: str, eps: float) -> str:
    """Return the sentence on an epsilon that the library has to be told in Python, "" if it has it anyway."""
    if not other_epsilon(layout, family, eps):
        return ""
    theirs = " or ".join(f"{one:g}" for one in _EPSILONS[layout, family])
    how = f"norm_layer=partial(torch.nn.LayerNorm, eps={eps:g})" if layout == "timm" else "setting it after building"
    library = {"meta": "facebookresearch/dinov2"}.get(layout, layout)
    return (
        f"LayerNorm epsilon: this network has {eps:g} and {library} builds it with {theirs}, which no config file can "
        f"change: the features differ unless it is loaded with {how}, as README.md shows"
    )


def how_to_load(
    layout: str, family: str, shape: Shape | None, eps: float, classes: int = 0, encoder: str = ""
) -> list[str]:
    """Return the lines of Python that load the file: `classes` of a classifier in it, `encoder` that it is of."""
    if layout == "timm":
        return _timm(eps if other_epsilon(layout, family, eps) else None, classes)
    if layout == "hf":
        return ["from transformers import AutoModel", 'model = AutoModel.from_pretrained("THIS_FOLDER").eval()']
    if layout == "meta" and shape is not None:
        return _meta(shape, other_epsilon(layout, family, eps))
    if layout == "histojax" and encoder:
        return ["import histojax", f'encoder = histojax.load_encoder("{encoder}", weights="THIS_FOLDER")']
    if layout == "histojax":
        return [
            "from histojax.weights.backbone import open_backbone",
            'tree = open_backbone("THIS_FOLDER").read().tree',
        ]
    return ["import safetensors.torch", f"tensors = {_TENSORS}  # names of {family}, {layout}"]


def feature_lines(layout: str, pooling: str, prefix: int) -> list[str]:
    """Return the lines of Python that take the feature from the loaded model, [] if they are not known."""
    lines = [line.format(prefix=prefix) for line in _FEATURES.get((layout, pooling), ())]
    if any("torch." in line for line in lines):
        lines.insert(0, "import torch")
    return lines


def _timm(eps: float | None, classes: int) -> list[str]:
    more = ", num_classes=0" if classes else ""
    if eps is not None:
        more += f", norm_layer=partial(torch.nn.LayerNorm, eps={eps:g})"
    lines = ["from functools import partial", "import torch"] if eps is not None else []
    lines += ["import timm", f'model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True{more}).eval()']
    return lines + ([f"# without num_classes=0 it gives the {classes} logits of its classifier"] if classes else [])


def _meta(shape: Shape, other: bool) -> list[str]:
    lines = [
        "from functools import partial",
        "import safetensors.torch",
        "from dinov2.layers import MemEffAttention, NestedTensorBlock as Block",
        "from dinov2.models.vision_transformer import DinoVisionTransformer",
        f"model = {meta_call(shape)}.eval()",
        f"model.load_state_dict({_TENSORS}, strict=True)",
    ]
    if other:
        lines += [
            "for module in model.modules():",
            '    if type(module).__name__ == "LayerNorm":',
            f"        module.eps = {shape.eps:g}",
        ]
    return lines
