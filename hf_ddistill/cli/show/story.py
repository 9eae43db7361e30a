"""A trace as what is drawn of it: for each step, each sample's pieces.

A piece is what stands at one position: some text, or a grey level of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_ddistill.pipelines import Moment

#: From a probability of 0 to one of 1: told apart by eyes that do not tell red from green.
UNSURE, SURE = (213, 94, 0), (0, 114, 178)
#: What stands where a token is not known yet.
OPEN = "·"


@dataclass(frozen=True)
class Piece:
    """What stands at a position after a step.

    Args:
        text: as it is written; of an image, its grey level is what counts.
        grey: 0 (black) to 255, of a pixel; None where there is no image.
        known: False for a token that says nothing yet, such as a mask.
        step: the step, from 1, that put it there; 0 for what was given or was there before.
        sure: p of the token at that step; None where it is not known.
    """

    text: str
    grey: int | None
    known: bool
    step: int
    sure: float | None


@dataclass(frozen=True)
class Story:
    """All steps of some samples.

    Args:
        frames: for each step, for each sample, its pieces.
        shape: (height, width) of images; None for text and symbols.
    """

    frames: Sequence[Sequence[Sequence[Piece]]]
    shape: tuple[int, int] | None = None


def told(
    moments: Sequence[Moment],
    written: Callable[[int], str],
    noise_tokens: Sequence[int],
    greys: Sequence[int] | None = None,
    shape: tuple[int, int] | None = None,
) -> Story:
    """The story of a trace.

    Args:
        moments: behind each step, one at least.
        written: the text of a token.
        noise_tokens: those that say nothing.
        greys: of each token, for images.
        shape: (height, width) of images.
    """
    rows, length = moments[0].sequences.shape
    since = [[(0, None)] * length for _ in range(rows)]
    frames = []
    for step, moment in enumerate(moments, 1):
        came, sure = moment.changed.tolist(), moment.confidence.tolist()
        frame = []
        for row, tokens in enumerate(moment.sequences.tolist()):
            pieces = []
            for i, token in enumerate(tokens):
                known = token not in noise_tokens
                if came[row][i]:
                    since[row][i] = (step, None if math.isnan(sure[row][i]) else sure[row][i])
                grey = None if greys is None else greys[token]
                text = written(token) if known else OPEN
                pieces.append(Piece(text, grey, known, *(since[row][i] if known else (0, None))))
            frame.append(pieces)
        frames.append(frame)
    return Story(frames, shape)


def text_of_tokens(tokenizer: Any) -> Callable[[int], str]:
    """The text of each token where it stands in the midst of others; special tokens as `¶`.

    It is read from behind a common token: alone, many a tokenizer strips a token's space.
    """
    special = set(tokenizer.all_special_ids)
    anchor = next((i for i in range(len(tokenizer)) if i not in special), 0)
    before, known = tokenizer.decode([anchor]), {}

    def text(token: int) -> str:
        if token not in known:
            both = tokenizer.decode([anchor, token])
            alone = tokenizer.decode([token])
            known[token] = both[len(before) :] if both.startswith(before) else alone
        return "¶" if token in special else known[token]

    return text


def shade(sure: float | None) -> tuple[int, int, int]:
    """The colour of a probability, as red, green and blue of 255; grey where none is known."""
    if sure is None:
        return (110, 110, 110)
    share = min(max(sure, 0.0), 1.0)
    return tuple(round(a + share * (b - a)) for a, b in zip(UNSURE, SURE, strict=True))
