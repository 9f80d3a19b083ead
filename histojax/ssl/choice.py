"""What of a network is trained, as one word of the configuration says it."""

from __future__ import annotations

import dataclasses
import re

WORDS = "all, norms, last:K, lora:R or lora:R@last:K"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What of the backbone is trained; the heads always are.

    `kind` "all": everything; "norms": norms and biases; "last": some blocks from the end on, and the final norm;
    "lora": low-rank pairs beside the linear layers of those blocks, and nothing else.
    """

    kind: str = "all"
    last: int | None = None  # blocks counted from the output; None: all of them
    rank: int = 0  # of the pairs; 0: there are none, so the backbone stays as it is

    def first_blocks(self, depth: int) -> int:
        """Blocks, of `depth`, that come before the chosen ones."""
        return 0 if self.last is None else depth - self.last


ALL = Choice()


def parse_choice(word: str, depth: int, width: int) -> Choice:
    """The choice that `word` names, for a backbone of `depth` blocks and `width` features.

    Raises ValueError, with what could be said instead, for any other word.
    """
    if word in ("all", "norms"):
        return Choice(word)
    if found := re.fullmatch(r"last:(\d+)", word):
        choice = Choice("last", int(found[1]))
    elif found := re.fullmatch(r"lora:(\d+)(?:@last:(\d+))?", word):
        choice = Choice("lora", int(found[2]) if found[2] else None, int(found[1]))
    else:
        raise ValueError(f"{word!r} is not {WORDS}")
    if choice.last is not None and not 1 <= choice.last <= depth:
        raise ValueError(f"{word!r} names {choice.last} blocks of {depth}: last:K takes K from 1 to {depth}")
    if choice.rank > width:
        raise ValueError(f"{word!r} has a rank above the width of the backbone: lora:R takes R from 0 to {width}")
    return choice
