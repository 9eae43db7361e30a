"""Questions about some places of a batch, in the rows that they are in, and draws there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.denoisers.denoiser import condition_of
from hf_ddistill.linalg import categorical_at, categorical_of_logs, uniform_noise
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.places import Places
from hf_ddistill.shapes import Chooser, Generators, Index, Tokens, Where

#: Log-probabilities that are worked on at a time, on the CPU: few enough for its cache.
SOME = 2**19


def draw_at(
    log_p: Tensor,
    places: Places,
    generator: Generators = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Tokens (N,) from log p (N, K) at some places, by the numbers of all (B, L): a row's tokens
    do not hang on where others are drawn.

    Args:
        log_p: (N, K).
        places: N.
        generator: one, or one for each of the B rows.
        change: of the laws, some at a time, such as a temperature.
    """
    if isinstance(generator, Chooser):
        law = log_p if change is None else change(log_p)
        return categorical_at(law.exp(), places.where, generator)
    noise = places.take(uniform_noise(places.shape, generator, log_p.device))
    some = max(1, (SOME if log_p.device.type == "cpu" else 16 * SOME) // log_p.shape[-1])
    parts = zip(log_p.split(some), noise.split(some), strict=True)
    return torch.cat(
        [categorical_of_logs(p if change is None else change(p), noise=u) for p, u in parts]
    )


def taking(where: Where) -> tuple[Index | None, Places] | None:
    """The rows (R,) in which `where` (B, L) is True anywhere, None for all of them, and the places
    among these rows; None if there are none. The device is waited for once."""
    counts = where.sum(1).tolist()
    some = [row for row, count in enumerate(counts) if count]
    if not some:
        return None
    rows, length = None, where.shape[1]
    if len(some) < len(counts):
        rows = torch.tensor(some).to(where.device, non_blocking=True)
        where = where.index_select(0, rows)
    index = where.flatten().nonzero_static(size=sum(counts))[:, 0]
    return rows, Places(index, (len(some), length))


def ask(
    denoiser: Denoiser,
    x_t: Tokens,
    t: Tensor | float,
    where: tuple[Index | None, Places],
    condition: Mapping[str, Any],
) -> Prediction:
    """What a denoiser says at some places, (N, 1, K); it is shown only the rows that take part.

    Args:
        denoiser: any.
        x_t: (B, L), all rows.
        t: one number, or one for each row (B,).
        where: as `taking` gives it.
        condition: of all rows.
    """
    rows, places = where
    if rows is not None:
        x_t, condition = x_t.index_select(0, rows), condition_of(condition, rows, len(x_t))
        t = t.to(rows.device)[rows] if isinstance(t, Tensor) and t.ndim else t
    return denoiser.at(x_t, t, places, **condition)


def with_noise(
    denoiser: Denoiser, x_t: Tokens, generator: Generators, condition: Mapping[str, Any]
) -> Mapping[str, Any]:
    """A condition with fresh noise, where the denoiser takes some and none is given."""
    if "noise" in condition:
        return condition
    return {**condition, **denoiser.fresh_noise(x_t, generator)}
