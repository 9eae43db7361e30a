"""The plot of `hf-ddistill diagnose`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_ddistill.diagnosis.conditioning import Row
from hf_ddistill.outputs import writing_file

#: Where a zero is drawn on a logarithmic axis.
FLOOR = 1e-17
#: The spacing of float64 at 1.
EPSILON = 2.0**-52
TIME = "t (0 data, 1 noise)"
RATIOS = {"float64": "exact, float64", "float32": "exact, float32"}


def save_diagnosis(file: Path, rows: Sequence[Row], subject: str) -> None:
    """Four panels as PNG: condition numbers, recovery, Euler, and training or negative mass."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(subject)
    panels = figure.subplots(2, 2).flatten()
    _plot_condition(panels[0], [row for row in rows if row["section"] == "condition"])
    recovery = [row for row in rows if row["section"] == "recovery"]
    _plot_recovery(panels[1], recovery, ("tv", "tv_clamped"))
    panels[1].set(title="Recovered $p(x_0|x_t)$", ylabel="total variation from the truth")
    _plot_euler(panels[2], [row for row in rows if row["section"] == "euler"])
    start = [row for row in rows if row["section"] == "start"]
    if start:
        for name in ("warm", "random"):
            curve = [(row["step"], row["loss"]) for row in start if row["start"] == name]
            _line(panels[3], curve, label=f"{name} start")
        panels[3].set(title="Training by start", xlabel="step", ylabel="loss")
    else:
        _plot_recovery(panels[3], recovery, ("negative_mass",))
        panels[3].set(title="Negative mass before clamping", ylabel="share of the mass")
    for panel in panels:
        panel.grid(alpha=0.3)
        # Between the errors of float32 and of float64 there is room.
        room = {"loc": "center right", "bbox_to_anchor": (1, 0.38)} if panel is panels[1] else {}
        panel.legend(fontsize=8, **room)
    with writing_file(file) as draft:
        figure.savefig(draft, dpi=120)


def _line(panel: Axes, points: list[tuple[float, float | None]], *form: str, **style: Any) -> None:  # noqa: ANN401
    x, y = zip(*points, strict=True) if points else ((), ())
    panel.plot(x, [math.nan if value is None else value for value in y], *form, **style)


def _plot_condition(panel: Axes, rows: Sequence[Row]) -> None:
    names = {"condition": "of recovery from ratios, $M(x_t)$", "kernel_condition": "of $P_{0t}$"}
    for key, label in names.items():
        _line(panel, [(row["t"], row[key]) for row in rows], marker="o", label=label)
    if any((row["condition"] or 0) > 1 / EPSILON for row in rows):
        panel.axhline(1 / EPSILON, color="0.4", ls="--", label="1 / precision of float64")
    for i, t in enumerate(row["t"] for row in rows if row["condition"] is None):
        panel.axvline(t, color="0.6", ls=":", label=None if i else "more than float64 can tell")
    panel.set(title="Condition number", xlabel=TIME, yscale="log")
    panel.set_ylim(0.5, min(panel.get_ylim()[1], 1e24))


def _plot_recovery(panel: Axes, rows: Sequence[Row], keys: tuple[str, ...]) -> None:
    for i, name in enumerate(dict.fromkeys(row["ratios"] for row in rows)):
        for key, style in zip(keys, ("o-", "--"), strict=False):
            points = [(row["t"], row[key]) for row in rows if row["ratios"] == name]
            points = [(t, None if value is None else max(value, FLOOR)) for t, value in points]
            label = f"ratios {RATIOS.get(name, name)}" if style == "o-" else None
            _line(panel, points, style, color=f"C{i}", ms=4, label=label)
    if len(keys) > 1:
        panel.plot([], [], "--", color="0.4", label="the same, clamped and renormalised")
    panel.set(xlabel=f"{TIME}; drawn from {FLOOR:g} up", yscale="log", ylim=(FLOOR / 3, 3))


def _plot_euler(panel: Axes, rows: Sequence[Row]) -> None:
    times = sorted({row["t"] for row in rows})
    for i, t in enumerate(times):
        here = sorted((row for row in rows if row["t"] == t), key=lambda row: row["h"])
        color = colormaps["viridis"](0.95 * i / max(1, len(times) - 1))
        points = [(row["h"], max(row["tv"], FLOOR)) for row in here if row["tv"] is not None]
        _line(panel, points, "o-", color=color, label=f"t = {t:g}")
        clipped = [(row["h"], row["tv"]) for row in here if row["clipped"] > 0 and row["tv"]]
        _line(panel, clipped, "o", color=color, mfc="white", ms=8)
    panel.plot([], [], "ko", mfc="white", ms=8, label="some leave with P > 1")
    panel.set(title="One Euler step", xlabel="step h", ylabel="total variation from the exact step")
    panel.set(xscale="log", yscale="log")
    steps = sorted({row["h"] for row in rows})
    panel.set_xticks(steps, [f"{h:g}" for h in steps])
    panel.set_xticks([], minor=True)
    panel.set_ylim(min([1e-3, *(row["tv"] / 2 for row in rows if row["tv"])]), 1.5)
