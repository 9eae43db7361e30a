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
    """Panels of 8 x 8 images beside each other, their titles above: a line for each class.

    Args:
        panels: title -> tokens (N, 64), row i of class i mod 10; at most 8 of a class are shown.
        levels: grey levels.
    """
    across = min(8, *(len(tokens) // 10 for tokens in panels.values()))
    figure, axes = plt.subplots(1, len(panels), figsize=(2.7 * len(panels), 3.9), sharey=True)
    for axis, (title, tokens) in zip(axes, panels.items(), strict=True):
        tiles = tokens[: 10 * across].reshape(across, 10, 8, 8).numpy() / (levels - 1)
        tiles = np.pad(tiles, ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=0.5)
        axis.imshow(tiles.transpose(1, 2, 0, 3).reshape(9 * 10, 9 * across), cmap="gray_r")
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([9 * label + 4.5 for label in range(10)], [str(i) for i in range(10)])
        axis.tick_params(length=0)
        axis.set_frame_on(False)
    axes[0].set_ylabel("class label")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


#: Figure -> its title on the frontier, with what is better.
FRONTIER = {
    "fd": "Fréchet distance (lower is better)",
    "auc": "two-sample AUC (.5 is best)",
    "confidence": "judge's confidence (higher is better)",
    "novelty": "pixels to nearest training digit\n(nearer to real is better)",
    "pairwise": "pixels between two samples\n(nearer to real is better)",
}


def save_frontier(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Quality and diversity against network calls: one line a model, real data as a dashed line.

    Args:
        rows: with `model`, `nfe` and the figures; `FIGURE_spread` becomes an error bar.
    """
    models = list(dict.fromkeys(row["model"] for row in rows if row["model"] != "real"))
    real = next(row for row in rows if row["model"] == "real")
    calls = sorted({row["nfe"] for row in rows if row["model"] != "real"})
    figure, axes = plt.subplots(1, len(FRONTIER), figsize=(3.6 * len(FRONTIER), 3.7))
    for axis, (key, title) in zip(axes, FRONTIER.items(), strict=True):
        for model in models:
            line = sorted((r for r in rows if r["model"] == model), key=lambda r: r["nfe"])
            axis.errorbar(
                [row["nfe"] for row in line],
                [row[key] for row in line],
                [row.get(f"{key}_spread", 0.0) for row in line],
                fmt="o-",
                markersize=4,
                capsize=3,
                label=model,
            )
        axis.axhline(real[key], color="black", linestyle="--", linewidth=1, label="real digits")
        axis.set_xscale("log", base=2)
        axis.set_xticks(calls, [str(n) for n in calls])
        axis.minorticks_off()
        axis.set_xlabel("network calls a sample")
        axis.set_title(title, fontsize=10)
    axes[0].set_yscale("log")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
