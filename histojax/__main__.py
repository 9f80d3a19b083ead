"""`python -m histojax VERB ...` and the console script `histojax`: runs the command of that name."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

VERBS = {  # verb: what it does; its module is histojax.VERB, with _ for -
    "tile": "cut whole slides into a tile store",
    "extract": "compute features of tiles with published or trained encoders",
    "evaluate": "say how good features are for a task: tiles (patch) or patients (slide)",
    "benchmark": "compute the tables of the paper anew, beside its numbers, with a verdict a cell",
    "compare": "say which of several evaluated encoders is better, and whether that may be believed",
    "heatmap": "draw what a trained head looks at and says over a slide; patch tokens as colours",
    "audit": "find copies, blank tiles, and what training and evaluation tiles share",
    "train": "continue DINOv2 training of a ViT on your tiles",
    "plan": "say what a training takes on a GPU or TPU before one is rented: memory, batch, hours",
    "slide-info": "show what slides are: size, mpp, levels, associated images, and how they are read",
    "encoders": "list the published encoders that can be loaded by name, or one of them in full",
    "convert": "read any weight file, report what is in it, write it anew",
    "export": "write a run, an encoder or a file for timm, transformers or Meta's class",
}


def usage() -> str:
    """The page that `histojax --help` prints."""
    verbs = "\n".join(f"  {verb:10s} {what}" for verb, what in VERBS.items())
    return (
        "histojax: self-supervised finetuning of pathology encoders in JAX\n\n"
        "usage: histojax VERB [flags]       (the same: python -m histojax VERB, python -m histojax.VERB)\n\n"
        f"verbs:\n{verbs}\n\n"
        "histojax VERB --help explains a verb and its flags; histojax --version prints the version.\n"
        "First run, no data needed: histojax train --config configs/quickstart.py --workdir runs/quickstart"
    )


def program() -> int:
    """Exit code of the command line; only here, never for a caller in Python, may train restart the process."""
    if sys.argv[1:2] == ["train"]:
        from histojax import train

        sys.argv[:2] = [sys.argv[0]]
        return train.program()
    return main(sys.argv[1:])


def main(argv: Sequence[str]) -> int:
    """Exit code of the verb in `argv`."""
    argv = list(argv)
    verb = argv[0] if argv else ""
    if verb in ("", "-h", "--help", "help"):
        print(usage(), file=sys.stdout if verb else sys.stderr)
        return 0 if verb else 2
    if verb == "--version":
        from histojax import __version__

        print(f"histojax {__version__}")
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"verbs: {', '.join(VERBS)}"
        print(f"histojax: error: unknown verb {verb!r}; {hint} (see histojax --help)", file=sys.stderr)
        return 2
    return importlib.import_module(f"histojax.{verb.replace('-', '_')}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(program())
