"""The picture of `hf-ddistill exact`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from hf_ddistill.laboratory.scoreboard import Row
from hf_ddistill.outputs import writing_file

#: A distance below this is drawn at it: the axes are logarithmic.
LEAST = 1e-5
STYLES = {
    "teacher": {"color": "black", "linestyle": "--"},
    "limit": {"color": "gray", "linestyle": ":"},
    "start": {"color": "gray", "linestyle": "-", "alpha": 0.4},
}
TITLES = {"tv": "total variation from the data", "kl": "KL(data || sampler), nats"}


def save_scoreboard(file: Path, rows: Sequence[Row]) -> None:
    """Total variation and KL against network calls; a row of panels for each problem and process.

    Lines are medians over the seeds, dots the seeds.
    """
    boards = list(dict.fromkeys((row["problem"], row["process"]) for row in rows))
    figure, axes = plt.subplots(
        len(boards), len(TITLES), figsize=(9.5, 3.3 * len(boards)), squeeze=False
    )
    for line, board in zip(axes, boards, strict=True):
        own = [row for row in rows if (row["problem"], row["process"]) == board]
        for axis, (key, title) in zip(line, TITLES.items(), strict=True):
            _panel(axis, own, key)
            axis.set_title(f"{', '.join(board)}: {title}", fontsize=10)
        line[0].legend(fontsize=8)
    figure.tight_layout()
    with writing_file(file) as draft:
        figure.savefig(draft, dpi=110)
    plt.close(figure)


def _panel(axis: Axes, rows: Sequence[Row], key: str) -> None:
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        nfe = sorted({row["nfe"] for row in own})
        found = [[max(row[key], LEAST) for row in own if row["nfe"] == n] for n in nfe]
        (line,) = axis.plot(
            nfe, [median(values) for values in found], label=method, **STYLES.get(method, {})
        )
        dots = [(n, value) for n, values in zip(nfe, found, strict=True) for value in values]
        axis.plot(*zip(*dots, strict=True), ".", color=line.get_color(), alpha=0.6)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("network calls per sample (NFE)")
    axis.grid(alpha=0.2)
