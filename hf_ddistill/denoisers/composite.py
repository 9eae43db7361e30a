"""The base of denoisers that are made of others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, replace
from functools import wraps
from itertools import count
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn import Module

from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.latent import Latent
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.kinds import of_their_kinds
from hf_ddistill.parameterizations import Parameterization, Prediction
from hf_ddistill.places import Places
from hf_ddistill.shapes import Tokens, Where


def _of_denoisers(post_init: Callable[[Any], None]) -> Callable[[Any], None]:
    """`__post_init__` behind the checks of kinds and of parts."""

    @of_their_kinds
    @wraps(post_init)
    def checked(self: Any) -> None:
        self._check_parts()
        post_init(self)

    return checked


#: (denoiser, its condition) -> its prediction, at all positions or at those that were asked for.
Ask: TypeAlias = Callable[[Denoiser, Mapping[str, Any]], Prediction]


class Composite(Denoiser):
    """A denoiser made of others, which are fields of its frozen dataclass, alone or in tuples.

    A new kind is one dataclass with `combine`. Its diffusion and its latent are those of the first
    denoiser among its fields, and a copy starts as that one; a kind that wants it otherwise says
    so.
    """

    @of_their_kinds
    def __post_init__(self) -> None:
        self._check_parts()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__post_init__" in cls.__dict__:
            cls.__post_init__ = _of_denoisers(cls.__dict__["__post_init__"])

    def _check_parts(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not str(field.type).startswith(("Denoiser", "tuple[Denoiser")):
                continue
            for each in value if isinstance(value, tuple | list) else (value,):
                if not isinstance(each, Denoiser):
                    raise ValueError(
                        f"{field.name} of {type(self).__name__} must be a Denoiser, got "
                        f"{type(each).__name__}: as_denoiser(model) makes one of a model."
                    )

    @abstractmethod
    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """One prediction from those of its parts.

        Args:
            ask: `ask(part, condition)` is what a part predicts, (B, L, K) or (N, 1, K).
            condition: that of the call.
        """

    def __call__(
        self, x_t: Tokens, t: Tensor | float | None = None, **condition: Any
    ) -> Prediction:
        return self.combine(lambda part, given: part(x_t, t, **given), condition)

    def at(
        self, x_t: Tokens, t: Tensor | float | None, where: Where | Places, **condition: Any
    ) -> Prediction:
        """The prediction at the positions of `where` alone: (N, 1, K)."""
        places = Places.of(where)
        return self.combine(lambda part, given: part.at(x_t, t, places, **given), condition)

    def pieces(
        self,
        x_t: Tokens,
        t: Tensor | float | None,
        where: Where | Places,
        size: int,
        **condition: Any,
    ) -> Iterator[Prediction]:
        """What `at` gives, `size` positions at a time, from the pieces of the parts."""
        places, asked = Places.of(where), []
        for _ in range(0, max(len(places), 1), size):
            numbers = count()

            def ask(part: Denoiser, given: Mapping[str, Any], numbers: Any = numbers) -> Prediction:
                number = next(numbers)
                if number == len(asked):  # in the first piece: each part is called once
                    asked.append(part.pieces(x_t, t, places, size, **given))
                return next(asked[number])

            yield self.combine(ask, condition)

    def features(
        self, x: Tokens, t: Tensor | float | None = None, layer: int | None = None, **condition: Any
    ) -> Tensor:
        """Those of the first part."""
        return self.parts[0].features(x, t, layer, **condition)

    @property
    def layers(self) -> int | None:
        """Those of the first part."""
        return self.parts[0].layers

    @property
    def parts(self) -> tuple[Denoiser, ...]:
        """The denoisers among its fields, in their order."""
        found: list[Any] = []
        for field in fields(self):
            value = getattr(self, field.name)
            found += value if isinstance(value, tuple) else [value]
        return tuple(each for each in found if isinstance(each, Denoiser))

    @property
    def diffusion(self) -> Diffusion:
        """That of the first part."""
        return self.parts[0].diffusion

    @property
    def latent(self) -> Latent | None:
        """That of the first part; all parts get the same noise."""
        return self.parts[0].latent

    @property
    def reads_time(self) -> str | None:
        """That of the first part that reads one."""
        return next((part.reads_time for part in self.parts if part.reads_time), None)

    @property
    def needs_time(self) -> bool:
        """Whether any part needs it."""
        return any(part.needs_time for part in self.parts)

    @property
    def conditions(self) -> frozenset[str]:
        """Those of all parts."""
        return frozenset().union(*(part.conditions for part in self.parts))

    @property
    def draft(self) -> Denoiser:
        """The same made of what drafts for its parts; itself where they draft for themselves."""
        own = all(part.draft is part for part in self.parts)
        return self if own else self._mapped(lambda part: part.draft)

    def at_step(
        self, student: Denoiser, progress: float, memory: MutableMapping[str, Tensor]
    ) -> Denoiser:
        """The same made of what its parts are then."""
        then = {id(part): part.at_step(student, progress, memory) for part in self.parts}
        moved = any(then[id(part)] is not part for part in self.parts)
        return self._mapped(lambda part: then[id(part)]) if moved else self

    def networks(self) -> tuple[Module, ...]:
        """Those of all parts."""
        return tuple(network for part in self.parts for network in part.networks())

    def with_networks(self, networks: Sequence[Module]) -> Composite:
        """Each part with its own."""
        left = iter(networks)
        return self._mapped(lambda part: part.with_networks([next(left) for _ in part.networks()]))

    def read_as(self, parameterization: Parameterization) -> Composite:
        """Each part read so."""
        return self._mapped(lambda part: part.read_as(parameterization))

    def _mapped(self, change: Callable[[Denoiser], Denoiser]) -> Composite:
        def renewed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(renewed, value))
            return change(value) if isinstance(value, Denoiser) else value

        return replace(self, **{f.name: renewed(getattr(self, f.name)) for f in fields(self)})

    @property
    def copied(self) -> Denoiser:
        """The part that copies to train are made of: the first."""
        return self.parts[0]

    def trainable_copy(self) -> Denoiser:
        """That of the part which is copied."""
        return self.copied.trainable_copy()

    def adapted_copy(self) -> Denoiser:
        """That of the part which is copied."""
        return self.copied.adapted_copy()

    @property
    def description(self) -> str:
        """Its kind, its parts and its settings."""

        def told(value: Any) -> str:
            if isinstance(value, tuple):
                return f"({', '.join(map(told, value))})"
            return value.description if isinstance(value, Denoiser) else repr(value)

        each = (f"{field.name}={told(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(each)})"
