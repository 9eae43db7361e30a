"""Any sampler of the family, by its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (diffusers looks here)

from hf_ddistill.samplers import Sampler
from hf_ddistill.schedulers.scheduling_base import DiscreteSchedulerBase


class SamplerScheduler(DiscreteSchedulerBase):
    """
    The face of a sampler that has no scheduler of its own, such as one with an unmasking rule.

    What calls its network more than once a step cannot be stepped from outside: the pipeline runs
    it.

    References:
        Those of its sampler (`hf-ddistill list samplers`).

    Args:
        process, schedule, temperature, ...: see `DiscreteSchedulerBase`.
        sampler (`dict` or `str`): `Sampler.to_config()`, such as
            `{"type": "unmasking", "unmasking": "threshold"}`, or a bare name. Its draws are
            sharpened by the scheduler's own `temperature`, `top_k` and `top_p`.
    """

    kind = Sampler

    @register_to_config
    def __init__(
        self,
        process: dict[str, Any],
        schedule: dict[str, Any] | str = "log_linear",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        sampling_dtype: str = "float64",
        num_inference_steps: int = 64,
        sampler: dict[str, Any] | str = "ancestral",
    ) -> None:
        self._given = Sampler.from_config(sampler)
        settings = (temperature, top_k, top_p, sampling_dtype, num_inference_steps)
        super().__init__(process, schedule, *settings)
        self.register_to_config(sampler=self._given.to_config())

    def _made(self) -> Sampler:
        return self._given


def scheduler_for(
    sampler: Sampler | Mapping[str, Any] | str,
) -> tuple[type[DiscreteSchedulerBase], dict[str, Any]]:
    """The scheduler class of a sampler, and the settings that it needs beside a diffusion."""
    sampler = Sampler.from_config(sampler)
    for kind in DiscreteSchedulerBase.__subclasses__():
        if sampler == _default(kind):
            return kind, {}
    own = {
        field.name: getattr(sampler, field.name)
        for field in dataclasses.fields(sampler)
        if field.name in ("temperature", "top_k", "top_p")
        and getattr(sampler, field.name) != field.default
    }
    return SamplerScheduler, {"sampler": sampler.to_config(), **own}


def _default(kind: type[DiscreteSchedulerBase]) -> Sampler | None:
    return None if kind.kind is Sampler else kind.kind()


__all__ = ["SamplerScheduler", "scheduler_for"]
