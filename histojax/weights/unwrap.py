"""From what a file holds to flat dicts of parameters: wrapper keys, prefixes, halves of a training state."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from histojax.common.errors import UserError
from histojax.weights.lazy import Array, Checkpoint, LazyTensor
from histojax.weights.pickle_reader import Placeholder, numpy_value
from histojax.weights.strangers import refuse_deepspeed, refuse_objects

SIDES = ("teacher", "student")
_WRAPPERS = (
    "teacher", "student", "state_dict", "model", "module", "model_state_dict",
    "teacher_dino_head", "student_dino_head", "teacher_ibot_head", "student_ibot_head",
)  # fmt: skip
_SHOWN, _WIDTH = 8, 32
_DEEP = 8  # levels of dicts that are searched for tensors to count


def unwrap(checkpoint: Checkpoint, root: Any, which: str | None) -> Checkpoint:
    """Return the checkpoint with its tensors filled in: from the wrapper key that holds most, or from the top.

    `which` is a side ("teacher", "student") where the file has both, or the key itself that is wanted.
    """
    keys: list[str] = []
    node = root
    if which not in (None, *SIDES):
        node = _asked_for(checkpoint, root, which)
        keys.append(which)
        _describe(checkpoint, root, {which: None})
    while (key := _wrapper_key(checkpoint, node, which)) is not None:
        _describe(checkpoint, node, {key: None})
        keys.append(key)
        node = node[key]
    tensors = _tensors_of(node)
    refuse_objects(checkpoint.path, node.values() if isinstance(node, dict) else [node])
    if not any(0 not in tensor.shape for tensor in tensors.values()):
        refuse_deepspeed(checkpoint.path, root)
    if not tensors:
        raise UserError(f"{checkpoint.path}: {_no_tensors(node)}")
    checkpoint.tensors, checkpoint.wrapper = tensors, "/".join(keys)
    _describe(checkpoint, node, tensors)
    if checkpoint.other:
        beside = [f"{key} ({what[:_WIDTH]})" for key, what in checkpoint.other.items()]
        checkpoint.notes.append(f"left aside: {_listing(beside)}")
    if checkpoint.named:
        checkpoint.notes.append(f"named in the file and not run: {_listing(sorted(checkpoint.named))}")
    return checkpoint


def _asked_for(checkpoint: Checkpoint, root: Any, which: Any) -> Any:
    """Return what is under the key that was asked for by name."""
    found = {str(key): n for key, value in root.items() if (n := _all_tensors(value))} if isinstance(root, dict) else {}
    if which not in found:
        known = ", ".join(f"{key[:40]} ({n} tensors)" for key, n in list(found.items())[:_SHOWN]) or "none"
        raise UserError(f"{checkpoint.path}: no tensors under the key {which!r}; its keys with tensors are {known}")
    return root[which]


def _tensors_of(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, LazyTensor) and isinstance(name, str):
            found[name] = value
        elif isinstance(name, str) and (array := numpy_value(value)) is not None and array.ndim:
            found[name] = Array(array)
    return found


def _wrapper_key(checkpoint: Checkpoint, node: Any, which: str | None) -> str | None:
    """Return the key to unwrap, or None if the tensors are right here."""
    if not isinstance(node, dict):
        return None
    here = len(_tensors_of(node))
    counts = {key: n for key in _WRAPPERS if (n := _count(node.get(key))) > here}
    sides = [key for key in counts if key.split("_")[0] in SIDES]
    checkpoint.sides = checkpoint.sides or tuple(sorted({key.split("_")[0] for key in sides}))
    if not sides:
        return _fullest(checkpoint, counts)
    options = list(counts)
    if which in SIDES:
        options = [key for key in options if key not in sides or key.startswith(which)]
        if not options:
            raise UserError(f"{checkpoint.path}: has {', '.join(sides)} but no {which}")
    elif set(SIDES) <= set(sides):
        checkpoint.notes.append("the file has a teacher and a student: took the teacher")
    return options[0]


def _fullest(checkpoint: Checkpoint, counts: Mapping[str, int]) -> str | None:
    """Return the key with most tensors; raise if two have as many."""
    most = max(counts.values(), default=0)
    first = [key for key, count in counts.items() if count == most]
    if len(first) > 1:
        raise UserError(
            f"{checkpoint.path}: the keys {' and '.join(first)} hold {most} tensors each; say which one is wanted: "
            f"--which {first[0]}"
        )
    return first[0] if first else None


def _count(node: Any, depth: int = 3) -> int:
    """Return the largest number of tensors in one dict, down to some wrappers deep."""
    if not isinstance(node, dict) or depth == 0:
        return 0
    return max(len(_tensors_of(node)), *(_count(node.get(key), depth - 1) for key in _WRAPPERS))


def sides_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return those of teacher and student that a file has, as keys of its own or in its names."""
    return checkpoint.sides or tuple(s for s in SIDES if any(f".{s}." in f".{name}" for name in checkpoint.tensors))


def _all_tensors(node: Any) -> int:
    """Return the number of tensors below a node; a dict or list that is there several times counts once."""
    level, seen, count = [node], set(), 0
    for _ in range(_DEEP):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, (dict, list, tuple)) and id(one) not in seen:
                seen.add(id(one))
                inner += one.values() if isinstance(one, dict) else one
            count += isinstance(one, LazyTensor)
        level = inner
    return count


def _describe(checkpoint: Checkpoint, node: dict, skip: Mapping[str, Any]) -> None:
    """Note what else is beside the key or the tensors that are taken."""
    for key, value in node.items():
        if isinstance(key, (str, int)) and key not in skip:
            simple = isinstance(value, (str, int, float, bool, type(None), Placeholder))
            tensors = _all_tensors(value)
            what = f"{tensors} tensors" if tensors else type(value).__name__
            checkpoint.other[str(key)[:80]] = repr(value)[:80] if simple else what


def _no_tensors(node: Any) -> str:
    if isinstance(node, Placeholder):
        return (
            f"holds a whole pickled {node.name} object, not a dict of tensors; in PyTorch, load it and save "
            "model.state_dict()"
        )
    keys = ", ".join(str(key)[:40] for key in list(node)[:8]) if isinstance(node, dict) else type(node).__name__
    return f"no tensors found (top level: {keys}); looked for {', '.join(_WRAPPERS)}"


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


# names


_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_fsdp_wrapped_module|_orig_mod)\.")
_CHUNKED = re.compile(r"^(.*\bblocks)\.\d+\.(\d+)\.(.+)$")
_SHARED_PREFIXES = ("module.", "model.", "encoder_q.")
# what files hold beside a backbone, outside its prefix, that no encoder needs
ASIDE = (
    "head.*", "classifier.*", "pooler.*", "lm_head.*", "decoder.*", "fc.*", "criterion.*", "loss.*", "*metrics.*",
    "encoder_k.*", "queue", "queue_ptr", "n_averaged",
)  # fmt: skip
# "backbone" by DINO and DINOv2, the others by Hugging Face's models with a task
_BACKBONES = ("backbone", "dinov2", "dinov2_with_registers", "vit", "beit", "data2vec_vision", "dinov3_vit")
_HEADS = ("dino_head", "ibot_head")
_HEAD_NAMES = re.compile(r"^(mlp\.|last_layer\.)")


def clean_names(tensors: Mapping[str, Any], which: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return (tensors under the names of their modules, notes on what was changed).

    Undone are the marks that training code leaves in names: `module.`, `_fsdp_wrapped_module.`, `_orig_mod.`,
    torch's weight-norm parametrisation (-> `weight_g`, `weight_v`), chunked blocks (`blocks.<chunk>.<i>` ->
    `blocks.<i>`, facebookresearch/dinov2 `block_chunks`), and the unwanted half of a student/teacher file. Where
    only names that no encoder needs (`ASIDE`: a loss, a queue) lack a prefix, the others get `backbone.` for it.

    Args:
        which: "teacher" or "student" where the names have both; else the teacher is taken, which is noted.
    """
    notes: list[str] = []
    tensors = _rename(tensors, lambda name: _WRAPPED.sub("", name), notes, "FSDP / compile wrappers removed")
    tensors = _strip_shared(tensors, notes)
    tensors = _choose_side(tensors, which, notes)
    tensors = _rename(tensors, _weight_norm, notes, "weight-norm parametrisation renamed to weight_g / weight_v")
    if any(_CHUNKED.match(name) for name in tensors):
        tensors = _rename(tensors, lambda name: _CHUNKED.sub(r"\1.\2.\3", name), notes, "chunked blocks flattened")
    return _strip_shared(tensors, notes), notes


def split_modules(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {"backbone": ..., "dino_head": ..., "ibot_head": ...}, those that are present, as flat dicts.

    A file that holds a bare head (`mlp.*`, `last_layer.*`: the published head files) gives "dino_head" alone.
    All other names belong to the backbone, unless the file marks that one by a prefix: then they are the "rest".
    """
    if tensors and all(_HEAD_NAMES.match(name) for name in tensors):
        return {"dino_head": dict(tensors)}
    firsts = {name.partition(".")[0] for name in tensors}
    prefix = next((prefix for prefix in _BACKBONES if prefix in firsts), None)
    modules: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if first in _HEADS:
            modules.setdefault(first, {})[rest] = tensor
        elif first == prefix:
            modules.setdefault("backbone", {})[rest] = tensor
        else:
            modules.setdefault("rest" if prefix else "backbone", {})[name] = tensor
    return modules


def _rename(tensors: Mapping[str, Any], rule: Any, notes: list[str], note: str) -> dict[str, Any]:
    renamed = {rule(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise UserError(f"{len(tensors) - len(renamed)} tensors fall on one name with others ({note})")
    if list(renamed) != list(tensors):
        notes.append(note)
    return renamed


def _strip_shared(tensors: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Remove the known prefixes that all names share but those that no encoder needs, one after the other."""
    inner: dict[str, Any] = dict(tensors)
    loose: dict[str, Any] = {}
    while (prefix := _shared_prefix(inner)) is not None:
        loose |= {name: tensor for name, tensor in inner.items() if not name.startswith(prefix)}
        inner = {name[len(prefix) :]: t for name, t in inner.items() if name.startswith(prefix)}
        notes.append(f"prefix {prefix!r} removed")
    if loose and not any(name.partition(".")[0] in (*_BACKBONES, *SIDES) for name in inner):
        inner = {f"backbone.{name}": tensor for name, tensor in inner.items()}
    if clash := sorted(inner.keys() & loose.keys()):
        raise UserError(f"{clash[0]} is in the file twice, with and without a prefix")
    return inner | loose


def _shared_prefix(names: Collection[str]) -> str | None:
    for prefix in _SHARED_PREFIXES:
        without = [name for name in names if not name.startswith(prefix)]
        if len(without) < len(names) and all(is_aside(name) for name in without):
            return prefix
    return None


def is_aside(name: str) -> bool:
    """Whether a name is of something that no encoder needs."""
    return any(fnmatchcase(name, pattern) for pattern in ASIDE)


def _choose_side(tensors: dict[str, Any], which: str | None, notes: list[str]) -> dict[str, Any]:
    sides = [side for side in SIDES if any(name.startswith(side + ".") for name in tensors)]
    if not sides:
        return tensors
    side = which if which in SIDES else sides[0]
    if side not in sides:
        raise UserError(f"the file has {' and '.join(sides)} parameters but no {side}")
    chosen = {name[len(side) + 1 :]: t for name, t in tensors.items() if name.startswith(side + ".")}
    notes.append(f"took the {side}: {len(chosen)} of {len(tensors)} tensors")
    return chosen


def _weight_norm(name: str) -> str:
    for index, letter in ((0, "g"), (1, "v")):
        name = re.sub(rf"(^|\.)parametrizations\.weight\.original{index}$", rf"\1weight_{letter}", name)
    return name
