"""Another sampler at times that are given as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from hf_ddistill.configurable import frozen
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.samplers.around import Around
from hf_ddistill.samplers.sampler import Sampler, step_grid


@dataclass(frozen=True)
class GivenTimes(Around, Sampler):
    """The steps of a sampler from one to the next of given times, such as those that
    `hf_ddistill.diagnosis.best_times` finds for a denoiser.

    The times are a curve, linear between them: for n steps it is cut into n pieces, so that a grid
    of 16 serves 4 steps too, if not as well as one that was made for 4.

    Args:
        base: the sampler, by name, settings or as it is.
        times: from 1 (or, with a start of your own, less) down to exactly 0.

    Raises:
        ValueError: for times that are not so.
    """

    base: Sampler | Mapping[str, Any] | str = "ancestral"
    times: Sequence[float] | Tensor = (1.0, 0.0)
    id: ClassVar[str] = "given_times"
    citation: ClassVar[str] = "Park et al., Jump Your Steps, 2024, arXiv:2410.07761"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            times = tuple(map(float, frozen(self.times)))
        except (TypeError, ValueError):
            raise ValueError(f"times are numbers, got {self.times!r}.") from None
        descends = all(t > s for t, s in pairwise(times))
        if len(times) < 2 or not descends or times[0] > 1 or times[-1] != 0:
            raise ValueError(
                f"times are two or more, descending from at most 1 to exactly 0, got {list(times)}."
            )
        object.__setattr__(self, "times", times)

    def grid(self, n: int, diffusion: Diffusion) -> list[float]:
        """The given times, or the points of their curve for another number of steps."""
        last = len(self.times) - 1
        if n == last:
            return list(self.times)
        places = [(1 - time) * last for time in step_grid(n)]
        lower = [min(int(place + 1e-9), last - 1) for place in places]
        return [
            self.times[at] + (place - at) * (self.times[at + 1] - self.times[at])
            for at, place in zip(lower, places, strict=True)
        ]
