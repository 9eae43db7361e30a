"""Several denoisers, each of which owns some rows: those of its times, or of its classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.configurable import frozen
from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser, condition_of
from hf_ddistill.denoisers.log_linear import check_agree
from hf_ddistill.diffusion import times
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.places import Places
from hf_ddistill.shapes import Tokens, Where

#: A time that was once in float32 may lie so far beside a bound that it is.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Intervals:
    """A row is owned by the interval that its time is in: number k has bounds[k - 1] < t <=
    bounds[k], from 0 to 1.

    Args:
        bounds: numbers, ascending, in (0, 1): one less than there are owners.
    """

    bounds: Any = (0.5,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", frozen(self.bounds))
        numbers = isinstance(self.bounds, tuple) and all(map(_is_number, self.bounds))
        ends = (0.0, *self.bounds, 1.0) if numbers else (1.0, 0.0)
        if any(not a < b for a, b in zip(ends, ends[1:], strict=False)):
            raise ValueError(f"bounds must ascend between 0 and 1, got {self.bounds!r}.")

    @property
    def owners(self) -> int:
        """How many there are."""
        return len(self.bounds) + 1

    def __call__(self, t: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """The owner of each row (B,)."""
        bounds = torch.tensor(self.bounds, dtype=t.dtype, device=t.device)
        return torch.bucketize(t.contiguous() - ROUNDING, bounds)


@dataclass(frozen=True)
class Classes:
    """A row is owned by the group that its class is in.

    Args:
        groups: a tuple of the classes of each owner, from 0, no class twice.
    """

    groups: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", frozen(self.groups))
        listed = isinstance(self.groups, tuple) and all(
            isinstance(group, tuple) and group and all(map(_is_class, group))
            for group in self.groups
        )
        named = [label for group in self.groups for label in group] if listed else []
        if len({*named}) < len(named) or not named:
            raise ValueError(
                "groups must be lists of classes, one for each student, none empty and no class "
                f"twice, got {self.groups!r}."
            )

    @property
    def owners(self) -> int:
        """How many there are."""
        return len(self.groups)

    def __call__(self, t: Tensor | None, condition: Mapping[str, Any]) -> Tensor:
        """The owner of each row (B,), whatever its time.

        Raises:
            ValueError: without `class_labels`, or for a class that nobody owns.
        """
        labels = condition.get("class_labels")
        if labels is None:
            raise ValueError("Students that own classes need class_labels, and the call has none.")
        owner = torch.full_like(labels, -1)
        for number, group in enumerate(self.groups):
            owner[torch.isin(labels, torch.tensor(group, device=labels.device))] = number
        if bool((owner < 0).any()):
            lost = sorted({*labels[owner < 0].tolist()})
            raise ValueError(f"No student owns class {lost[0]}; they own {self.groups}.")
        return owner


def _is_number(bound: Any) -> bool:
    return isinstance(bound, int | float) and not isinstance(bound, bool)


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


@dataclass(frozen=True)
class Parted(Composite):
    """Each row is predicted by the denoiser that owns it, and by no other: students that were
    trained each for its own times (`interval_times`), or its own classes, sampled as one.

    One call of a network for each owner among the rows of a batch; in sampling all rows have one
    time, so that a sample costs what it costs with one student.

    References: Fan et al., Phased DMD: Few-step Distribution Matching Distillation via Score
    Matching within Subintervals, 2025, arXiv:2510.27684.

    Args:
        denoisers: of one diffusion, with the same noise input or none.
        of: who owns a row: `Intervals` or `Classes`.

    Raises:
        ValueError: if the denoisers differ in vocabulary, diffusion or noise, or there are more or
            fewer than owners.
    """

    denoisers: tuple[Denoiser, ...]
    of: Intervals | Classes = Intervals()

    def __post_init__(self) -> None:
        if len(self.denoisers) != self.of.owners:
            raise ValueError(
                f"There are {len(self.denoisers)} students and {self.of.owners} owners of rows: "
                f"{self.of}."
            )
        check_agree("one sampler", self.denoisers, noise=True)

    @property
    def needs_time(self) -> bool:
        """Where it decides who is asked, or a part needs it."""
        return isinstance(self.of, Intervals) or super().needs_time

    @property
    def conditions(self) -> frozenset[str]:
        """The class, too, where it decides who is asked."""
        own = {"class_labels"} if isinstance(self.of, Classes) else {}
        return super().conditions.union(own)

    @property
    def reads_time(self) -> str:
        """What its parts read, t where they read none and it decides who is asked."""
        return super().reads_time or ("t" if isinstance(self.of, Intervals) else None)

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """Nothing is combined: each part is asked for its own rows."""
        raise TypeError("Parted denoisers are asked by rows, and not all for the same ones.")

    def __call__(
        self, x_t: Tokens, t: Tensor | float | None = None, **condition: Any
    ) -> Prediction:
        all_ = Places.of(torch.ones_like(x_t, dtype=torch.bool), x_t.numel())
        said = self.at(x_t, t, all_, **condition).log_conditional
        return Prediction(said.view(*x_t.shape, -1))

    def at(
        self, x_t: Tokens, t: Tensor | float | None, where: Where | Places, **condition: Any
    ) -> Prediction:
        """The prediction at the positions of `where` alone, of each row its owner's: (N, 1, K)."""
        if t is None and self.needs_time:
            raise ValueError("Parted denoisers are asked at a time, and none is given.")
        places, t = Places.of(where), None if t is None else times(t).to(x_t.device)
        t = None if t is None else t.expand(x_t.shape[0])
        owner, found = self.of(t, condition), None
        for number in owner.unique().tolist():  # a wait, for the calls of all others
            rows = (owner == number).nonzero()[:, 0]
            chosen = (owner[places.rows] == number).nonzero()[:, 0]
            row = torch.zeros_like(owner).index_copy(
                0, rows, torch.arange(len(rows), dtype=owner.dtype, device=owner.device)
            )
            index = row[places.rows[chosen]] * x_t.shape[1] + places.positions[chosen]
            part = Places(index, (len(rows), x_t.shape[1]))
            given = condition_of(condition, rows, x_t.shape[0])
            now = None if t is None else t[rows]
            said = self.denoisers[number].at(x_t[rows], now, part, **given).log_conditional
            if found is None:
                found = said.new_zeros(len(places), *said.shape[1:])
            found = found.index_copy(0, chosen, said)
        return Prediction(found)

    def pieces(
        self,
        x_t: Tokens,
        t: Tensor | float | None,
        where: Where | Places,
        size: int,
        **condition: Any,
    ) -> Iterator[Prediction]:
        """What `at` gives, `size` positions at a time."""
        return Denoiser.pieces(self, x_t, t, where, size, **condition)
