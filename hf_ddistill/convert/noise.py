"""The noise schedules of others' configurations: SEDD's, MDLM's and Duo's names for ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_ddistill.schedules import Cosine, Geometric, Linear, LogLinear, Schedule, Sine

#: Their names, without what stands between the words.
NAMES = ("loglinear", "geometric", "cosine", "cosinesqr", "linear")


def schedule_of(
    noise: Mapping[str, Any] | str | None, source: str, *, of_duo: bool = False
) -> Schedule:
    """The schedule that a configuration's `noise` names.

    Args:
        noise: `{"type": ..., ...}` or the type alone; None is log-linear with eps 1e-3, that of all
            published networks.
        source: for the error.
        of_duo: whether the names are those of Duo's code, whose cosine is another curve.

    Raises:
        ValueError: for another type, and without the numbers that the type needs.
    """
    noise = {"type": noise} if isinstance(noise, str) else (noise or {})
    if not isinstance(noise, Mapping):
        raise ValueError(f"The noise of {source} must be a mapping with a type, got {noise!r}.")
    named = str(noise.get("type", "loglinear"))
    kind = named.replace("-", "").replace("_", "").lower()
    if kind == "loglinear":
        return LogLinear(_number(noise, "eps", source, 1e-3))
    if of_duo and kind == "cosine":
        return Sine(_number(noise, "eps", source, 1e-3))
    if kind in ("cosine", "cosinesqr"):
        return Cosine(_number(noise, "eps", source, 1e-3), 2 if kind == "cosinesqr" else 1)
    if kind in ("geometric", "linear"):
        ends = (_number(noise, name, source) for name in ("sigma_min", "sigma_max"))
        return (Geometric if kind == "geometric" else Linear)(*ends)
    raise ValueError(f"The noise of {source} is {named!r}, which is none of: {', '.join(NAMES)}.")


def noise_of(schedule: Schedule) -> dict[str, Any] | None:
    """SEDD's `noise` for one of our schedules; None where it has none for it."""
    ends = {"sigma_min": 1e-4, "sigma_max": 20}
    if schedule == LogLinear(1e-3):
        return {"type": "loglinear", **ends}
    if isinstance(schedule, Geometric):
        found = {"sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max}
        return {"type": "geometric", **found}
    return None


def _number(
    noise: Mapping[str, Any], name: str, source: str, default: float | None = None
) -> float:
    value = noise.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        said = "lacks" if value is None else f"gives {value!r} for"
        raise ValueError(f"The configuration of {source} {said} noise.{name}, a number.")
    return float(value)
