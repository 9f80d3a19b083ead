"""Which feature of an encoder is meant, by the words of a golden's .json."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

_SPLIT = re.compile(r"\s*(?:,(?![^\[]*\])|\+\+|;)\s*")
_BEFORE = re.compile(r"\b(before|without|no|pre)\b[ -]?(the )?(final |last )?(layer ?)?norm|\b(not |un)normali[sz]ed")


def recipe(words: str, normed: jax.Array, raw: jax.Array, prefix: int, pooled: jax.Array | None = None) -> jax.Array:
    """(N, D) or (N, 2 D): the feature that is described.

    Args:
        words: "cls token after final norm", "mean of patch tokens ...", "concat(cls, mean of ...), both after final
            norm", "... before final LayerNorm", "mean patches then fc_norm" and the like.
        normed, raw: tokens (N, T, D) after the final norm and before it.
        prefix: tokens before the patches.
        pooled: a mean of patches that is normed after it, of networks that have such a norm.

    Raises:
        ValueError: words that do not say exactly one of these.
    """
    text = words.lower().strip()
    joined = re.match(r"(?:concat(?:enation)?)\s*(?:of\s*)?\((.*)\)(.*)$", text)
    if joined:
        inside, rest = joined.groups()
    else:
        inside, rest = text, ""
    parts = [p for p in _SPLIT.split(inside) if p] if joined or "++" in text else [inside]
    features = [_one(f"{part} {rest}".strip(), words, normed, raw, prefix, pooled) for part in parts]
    return features[0] if len(features) == 1 else jnp.concatenate(features, axis=-1)


def _one(text: str, words: str, normed: jax.Array, raw: jax.Array, prefix: int, pooled: jax.Array | None) -> jax.Array:
    before = bool(_BEFORE.search(text))
    after = bool(re.search(r"\b(then|ln\()|fc_norm|pooler", text)) and not before
    tokens = raw if before else normed
    mean = bool(re.search(r"\bmean\b|\baverage\b", text))
    cls = bool(re.search(r"\bcls\b|\bclass token|\[:, 0\]", text))
    first = re.search(r"\[:, (\d+):\]", text)
    if mean and not cls:
        if after and pooled is not None:
            return pooled
        if not after and (first or re.search(r"\bpatch(es)?\b", text)):
            return tokens[:, int(first[1]) if first else prefix :].mean(1)
    if cls and not mean:
        return tokens[:, 0]
    raise ValueError(f"feature recipe not understood: {words!r}")
