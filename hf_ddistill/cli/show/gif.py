"""A story as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from hf_ddistill.cli.show.story import Piece, Story, shade
from hf_ddistill.outputs import writing_file

_PAPER, _INK, _FAINT, _OPEN_PIXEL = (255, 255, 255), (20, 20, 20), (185, 185, 185), (168, 172, 196)
_MARGIN, _SIZE, _ACROSS, _PIXEL = 12, 15, 96, 16
#: Milliseconds: of all steps together, of one at least and at most, and of the last.
_ALL, _LEAST, _MOST, _LAST = 6000, 60, 700, 2500


def save(story: Story, file: Path) -> None:
    """One picture a step; what has come in it is coloured by how sure the model was.

    Raises:
        ValueError: if there is a file that is not ours.
    """
    draw = _text if story.shape is None else _images
    pictures = [draw(story, step) for step in range(1, len(story.frames) + 1)]
    each = max(_LEAST, min(_MOST, _ALL // len(pictures)))
    times = [each] * (len(pictures) - 1) + [_LAST]
    with writing_file(file) as draft:
        pictures[0].save(
            draft, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True
        )


def _font() -> ImageFont.FreeTypeFont:
    # matplotlib brings a font of one width with most scripts; Pillow's own has Latin alone.
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")), _SIZE
    )


def _text(story: Story, step: int) -> Image.Image:
    font, high = _font(), _SIZE + 6
    wide = font.getlength("m")
    # As many lines as any step needs, so that all pictures have one size.
    needed = [
        max(len(_lines(frame[number])) for frame in story.frames)
        for number in range(len(story.frames[0]))
    ]
    lines = sum(needed) + len(needed) + 1
    size = round(_ACROSS * wide) + 2 * _MARGIN, lines * high + 2 * _MARGIN
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN), f"step {step} of {len(story.frames)}", _FAINT, font)
    top = _MARGIN + round(1.5 * high)
    for sample, count in zip(story.frames[step - 1], needed, strict=True):
        for number, line in enumerate(_lines(sample)):
            for column, (character, piece) in enumerate(line):
                place = (_MARGIN + column * wide, top + number * high)
                draw.text(place, character, _colour(piece, step), font)
        top += (count + 1) * high
    return picture


def _lines(sample: Sequence[Piece]) -> list[list[tuple[str, Piece]]]:
    """The characters of a sample, each with its piece, cut to lines; between words, where a line
    has any."""
    lines: list[list[tuple[str, Piece]]] = [[]]
    for piece in sample:
        for character in piece.text:
            line = lines[-1]
            if character == "\n":
                lines.append([])
                continue
            if len(line) == _ACROSS:
                spaces = [i for i, (each, _) in enumerate(line) if each == " "]
                end = spaces[-1] + 1 if spaces and character != " " else _ACROSS
                lines.append(line[end:])
                del line[end:]
            lines[-1].append((character, piece))
    return lines


def _colour(piece: Piece, step: int) -> tuple[int, int, int]:
    if not piece.known:
        return _FAINT
    return shade(piece.sure) if piece.step == step else _INK


def _images(story: Story, step: int) -> Image.Image:
    height, width = story.shape
    samples = story.frames[step - 1]
    across = min(len(samples), max(1, 900 // (width * _PIXEL + _MARGIN)))
    down = -(-len(samples) // across)
    cell = width * _PIXEL + _MARGIN, height * _PIXEL + _MARGIN
    head = _SIZE + 10
    picture = Image.new(
        "RGB", (across * cell[0] + _MARGIN, down * cell[1] + _MARGIN + head), _PAPER
    )
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN // 2), f"{step}/{len(story.frames)}", _INK, _font())
    for number, sample in enumerate(samples):
        left = _MARGIN + number % across * cell[0]
        top = _MARGIN + head + number // across * cell[1]
        for i, piece in enumerate(sample):
            x, y = left + i % width * _PIXEL, top + i // width * _PIXEL
            box = (x, y, x + _PIXEL - 1, y + _PIXEL - 1)
            fill = (piece.grey,) * 3 if piece.known else _OPEN_PIXEL
            draw.rectangle(box, fill)
            if piece.step == step:
                draw.rectangle(box, outline=shade(piece.sure), width=2)
    return picture
