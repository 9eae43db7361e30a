"""A story in a terminal: a block for each step, its news in the colour of how sure they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from hf_ddistill.cli.show.story import Piece, Story, shade

#: Of grey levels, where there are no colours: black to white.
_RAMP = " .:-=+*#%@"
_OPEN_PIXEL = (120, 124, 170)


def show(story: Story, out: TextIO) -> None:
    """Write every step; with colours where `out` is a terminal, else the news of a step of text
    stand in [brackets]."""
    colours, last = out.isatty(), len(story.frames)
    for step, samples in enumerate(story.frames, 1):
        came = sum(piece.step == step for sample in samples for piece in sample)
        out.write(f"step {step} of {last}: {came} tokens{_sureness(samples, step)}\n")
        for number, sample in enumerate(samples, 1):
            if story.shape is None:
                out.write(f"  {number}  {_line(sample, step, colours)}\n")
            else:
                out.writelines(f"  {line}\n" for line in _pixels(sample, story.shape, colours))
                out.write("\n")


def _sureness(samples: Sequence[Sequence[Piece]], step: int) -> str:
    sure = [p.sure for sample in samples for p in sample if p.step == step and p.sure is not None]
    return f", of which the model was {sum(sure) / len(sure):.0%} sure" if sure else ""


def _line(sample: Sequence[Piece], step: int, colours: bool) -> str:
    written = ""
    for piece in sample:
        text = piece.text.replace("\n", "↵")
        if piece.step == step and colours:
            red, green, blue = shade(piece.sure)
            text = f"\x1b[1;38;2;{red};{green};{blue}m{text}\x1b[0m"
        elif piece.step == step:
            space = " " if text.startswith(" ") else ""
            text = f"{space}[{text.removeprefix(' ')}]"
        elif not piece.known and colours:
            text = f"\x1b[2m{text}\x1b[0m"
        written += text
    return written


def _pixels(sample: Sequence[Piece], shape: tuple[int, int], colours: bool) -> list[str]:
    height, width = shape
    rows = [sample[i * width : (i + 1) * width] for i in range(height)]
    if not colours:
        return ["".join(_character(piece) * 2 for piece in row) for row in rows]
    lines = []
    for top in range(0, height, 2):
        # Two rows of pixels a line: the upper half of a character, and what is behind it.
        upper, lower = rows[top], rows[top + 1] if top + 1 < height else [None] * width
        cells = zip(upper, lower, strict=True)
        lines.append("".join(f"{_ink(a, 38)}{_ink(b, 48)}▀" for a, b in cells) + "\x1b[0m")
    return lines


def _character(piece: Piece) -> str:
    return _RAMP[piece.grey * (len(_RAMP) - 1) // 255] if piece.known else "?"


def _ink(piece: Piece | None, place: int) -> str:
    if piece is None:
        return f"\x1b[{place + 1}m"
    red, green, blue = (piece.grey,) * 3 if piece.known else _OPEN_PIXEL
    return f"\x1b[{place};2;{red};{green};{blue}m"
