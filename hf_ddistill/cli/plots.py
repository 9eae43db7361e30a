"""The pictures that commands write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from torch import Tensor

from hf_ddistill.outputs import writing_file


def save_grid(file: Path, images: Sequence[Image.Image]) -> None:
    """Images of one size in a grid, each pixel eight times as large."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = (8 * side for side in images[0].size)
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("L", (columns * (width + 4), rows * (height + 4)), 128)
    for i, image in enumerate(images):
        large = image.convert("L").resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(large, (i % columns * (width + 4), i // columns * (height + 4)))
    with writing_file(file) as draft:
        sheet.save(draft)


def save_samples(file: Path, panels: Mapping[str, Tensor], levels: int) -> None:
    """Panels of 8 x 8 images beside each other, their titles above.

    Args:
        panels: title -> tokens (N, 64); at most 8 x 8 of each are shown.
        levels: grey levels.
    """
    side = math.isqrt(min(64, *(len(tokens) for tokens in panels.values())))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.3 * len(panels), 3.7))
    for axis, (title, tokens) in zip(axes, panels.items(), strict=True):
        tiles = tokens[: side * side].reshape(side, side, 8, 8).numpy() / (levels - 1)
        tiles = np.pad(tiles, ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=0.5)
        axis.imshow(tiles.transpose(0, 2, 1, 3).reshape(9 * side, 9 * side), cmap="gray_r")
        axis.set_title(title, fontsize=11)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def save_frontier(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Quality and diversity against network calls: one line a model, real data as a dashed line."""
    figures = {
        "fd": "Fréchet distance (lower is better)",
        "confidence": "classifier confidence",
        "class_entropy": "class entropy (nats)",
        "novelty": "distance to nearest training image",
    }
    models = list(dict.fromkeys(row["model"] for row in rows if row["model"] != "real"))
    real = next(row for row in rows if row["model"] == "real")
    figure, axes = plt.subplots(1, len(figures), figsize=(4.1 * len(figures), 3.6))
    for axis, (key, title) in zip(axes, figures.items(), strict=True):
        for model in models:
            line = sorted((row["nfe"], row[key]) for row in rows if row["model"] == model)
            axis.plot(*zip(*line, strict=True), "o-", label=model)
        axis.axhline(real[key], color="black", linestyle="--", linewidth=1, label="real data")
        axis.set_xscale("log", base=2)
        axis.set_xlabel("network calls per sample (NFE)")
        axis.set_title(title, fontsize=10)
        if key == "fd":
            axis.set_yscale("log")
    axes[0].legend(fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
