"""What the schedulers of discrete diffusion share: all but the sampler.

Notation: x_t noised tokens (B, L), t in (0, 1] with 1 the noise, K vocabulary size (mask included),
s the time that follows t on the grid, such as 1, 1 - 1/n, ..., 1/n, 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import asked_at_the_end, require
from hf_ddistill.parameterizations.sharpening import check_sharpening
from hf_ddistill.processes import Process
from hf_ddistill.samplers import Sampler
from hf_ddistill.schedulers.step_times import check_times, number_of_steps, place_in, plain
from hf_ddistill.schedulers.steps import Given, Made, Reader, by_chances, by_rule, by_sampler
from hf_ddistill.schedules import Schedule
from hf_ddistill.shapes import Generators

SAMPLING_DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass
class DiscreteSchedulerOutput(BaseOutput):
    """
    Output of a step.

    Args:
        prev_sample (`torch.LongTensor` of shape `(batch_size, length)`):
            x_s, the next input of the model; x_0 after the last step.
        pred_original_sample (`torch.LongTensor` of shape `(batch_size, length)`):
            the likeliest x_0 of each position, as the model (sharpened) sees it at t.
        sampled_probs (`torch.Tensor` of shape `(batch_size, length)`):
            p(x_s | x_t) of each token of `prev_sample`; 1 where it could be no other, and None
            where a sampler draws all positions together.
    """

    prev_sample: torch.LongTensor
    pred_original_sample: torch.LongTensor | None = None
    sampled_probs: torch.Tensor | None = None


class DiscreteSchedulerBase(SchedulerMixin, ConfigMixin):
    """
    Base of the schedulers: diffusers' face of a sampler, x_t -> x_s ~ p(x_s | x_t).

    The last step (s = 0) always draws x_0 ~ p(x_0 | x_t) itself, so that no mask is left. A
    scheduler sees a model's output and never a model; all of them have the same configuration, so
    `CTMCEulerScheduler.from_config(scheduler.config, temperature=0.8)` turns one into another.

    Args:
        process (`dict`): `Process.to_config()`, such as `{"type": "absorbing", "vocab_size": 28}`.
        schedule (`dict`): `Schedule.to_config()`.
        temperature (`float`): sharpens p(x_0 | x_t); 0 takes its likeliest token.
        top_k (`int`, *optional*): keep this many of its tokens; None or 0 keeps all.
        top_p (`float`): keep the fewest of its tokens that hold this much of it, in (0, 1].
        sampling_dtype (`str`): `"float64"`, or `"float32"` for half the memory. Probabilities are
            then rounded, and rare tokens are lost in sums: a hidden temperature, slightly below 1.
            Tokens are drawn in float64 in both cases.
        num_inference_steps (`int`): what `timesteps` is made of until `set_timesteps` is called,
            and what the pipeline takes where it is not told: the steps a student was made for. At
            most 100,000.

    Raises:
        ValueError: for a setting out of its range, an unknown process or schedule, and a schedule
            under which the sampler cannot start.
    """

    order = 1
    #: The sampler that it is the face of.
    kind: ClassVar[type[Sampler]]

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
    ) -> None:
        # NumPy's numbers are no JSON.
        temperature, top_k, top_p = map(plain, (temperature, top_k, top_p))
        check_sharpening(temperature, top_k, top_p)
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        settings |= {"num_inference_steps": number_of_steps(num_inference_steps)}
        if sampling_dtype not in SAMPLING_DTYPES:
            known = ", ".join(SAMPLING_DTYPES)
            raise ValueError(f"`sampling_dtype` must be one of {known}, got {sampling_dtype!r}.")
        self.diffusion = Diffusion(Process.from_config(process), Schedule.from_config(schedule))
        sampler = self._made()
        sharpening = (temperature, top_k, top_p)
        own = sampler.sharpened(*sharpening)
        self.sharpening = sharpening if own is None else ()
        self.sampler = sampler if own is None else own
        self.sampler.check(self.diffusion)
        # The full settings, and none of them as "a default": diffusers takes positional arguments
        # for defaults, and would leave them out of `from_config`.
        self.register_to_config(**self.diffusion.to_config(), **settings, _use_default_values=[])
        self.set_timesteps(num_inference_steps)

    def _made(self) -> Sampler:
        """The sampler, before it is told how to sharpen."""
        return self.kind()

    @classmethod
    def _get_compatibles(cls) -> list[type[DiscreteSchedulerBase]]:
        # The method of diffusers looks for names in diffusers alone.
        return DiscreteSchedulerBase.__subclasses__()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        """
        Set `timesteps`, float64, to 1, 1 - 1/n, ..., 1/n, or to given times.

        Args:
            num_inference_steps (`int`): n, at most 100,000.
            device (`str` or `torch.device`, *optional*): of `timesteps`.
            timesteps (`Sequence[float]`, *optional*): instead of n, decreasing times in (0, 1];
                a sample from noise alone begins at 1.

        Raises:
            ValueError: unless one of both is given, and is such.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Give `num_inference_steps` or `timesteps`, one of both.")
        if timesteps is None:
            grid = self.sampler.grid(number_of_steps(num_inference_steps), self.diffusion)
        else:
            grid = [*check_times(timesteps), 0.0]
        self._grid, self.num_inference_steps = list(grid), len(grid) - 1
        self._times = self._grid[:-1]
        self._run = self.sampler.begin()
        self.timesteps = torch.tensor(self._times, dtype=torch.float64, device=device)

    @property
    def grid(self) -> list[float]:
        """`timesteps` as floats, and 0."""
        return self._grid

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.LongTensor,
        *,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DiscreteSchedulerOutput | tuple[torch.Tensor, ...]:
        """
        One step from `timestep` to the next lower time of `timesteps`, or to 0.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, length, vocab_size)`):
                log p(x_0 | x_t), or logits of it.
            timestep (`float`): one of `timesteps`.
            sample (`torch.LongTensor` of shape `(batch_size, length)`): x_t.
            generator (`torch.Generator` or a list of them, *optional*):
                with a list, one for each row, no row's sample depends on its batch. May live on
                another device than the logits.
            return_dict (`bool`): whether to return a `DiscreteSchedulerOutput` instead of a tuple.

        Raises:
            ValueError: for a time that is not on the grid, another vocabulary than the process's,
                tokens outside it, logits with NaN, and a sampler that calls its network more than
                once a step: a pipeline runs it.
        """
        t, s = self._interval(timestep)
        self._check(model_output, sample)
        if not self.sampler.calls_once:
            raise ValueError(
                f"A step of the sampler {self.sampler.id!r} is not known from one output of a "
                "model; DiscreteDiffusionPipeline runs it, or Sampler.sample."
            )
        given = Given(model_output, sample, t, s, generator)
        with asked_at_the_end():
            self._check_tokens(sample)
            made = self._made_from(given)
        output = DiscreteSchedulerOutput(made.x_s, made.likeliest, made.probs)
        return output if return_dict else output.to_tuple()

    def _made_from(self, given: Given) -> Made:
        """One step, at the positions that change alone where they are known before the tokens."""
        dtype = SAMPLING_DTYPES[self.config.sampling_dtype]
        reader = Reader(self.diffusion, dtype, self.sharpening)
        chances = self.sampler.known_chances(self.diffusion, given.s, given.t)
        if chances is not None:
            return by_chances(reader, given, chances)
        if self.sampler.is_product and self.diffusion.reveals:
            return by_rule(reader, given, self.sampler)
        if given.t == self._grid[0]:
            self._run = self.sampler.begin()
        return by_sampler(reader, given, self._run)

    def add_noise(
        self,
        original_samples: torch.LongTensor,
        noise: Generators,
        timesteps: float | torch.Tensor,
    ) -> torch.LongTensor:
        """
        x_t ~ P_0t[x_0], by the process.

        Args:
            original_samples (`torch.LongTensor` of shape `(batch_size, length)`): x_0.
            noise (`torch.Generator`, a list of them, or `None`):
                what the noise is drawn from, in the place where a continuous scheduler takes it.
            timesteps (`torch.Tensor` of shape `()` or `(batch_size,)`): times in [0, 1].

        Raises:
            ValueError: for a tensor of noise: tokens are drawn, and nothing is added to them.
        """
        if isinstance(noise, torch.Tensor):
            raise ValueError(
                f"`noise` is a tensor of shape {tuple(noise.shape)}, but nothing is added to "
                "tokens: they are drawn anew. Give a torch.Generator, a list of them (one for each "
                "row) or None in its place."
            )
        return self.diffusion.corrupt(original_samples, timesteps, noise)

    def _interval(self, timestep: float | torch.Tensor) -> tuple[float, float]:
        """(t, s) from the exact grid: a time may come back from a tensor of lower precision."""
        at = place_in(self._times, float(timestep))
        return self._grid[at], self._grid[at + 1]

    def _check(self, model_output: torch.Tensor, sample: torch.Tensor) -> None:
        vocab_size = self.diffusion.vocab_size
        if model_output.shape[-1] != vocab_size:
            raise ValueError(
                f"The model's output has a vocabulary of {model_output.shape[-1]} tokens, but the "
                f"scheduler's process has vocab_size={vocab_size} (both count the mask)."
            )
        if sample.ndim != 2 or model_output.shape[:-1] != sample.shape:
            raise ValueError(
                f"`sample` must be (batch_size, length) and `model_output` (batch_size, length, "
                f"{vocab_size}), got {tuple(sample.shape)} and {tuple(model_output.shape)}."
            )

    def _check_tokens(self, sample: torch.Tensor) -> None:
        size = self.diffusion.vocab_size
        require(
            (sample >= 0) & (sample < size),
            lambda wrong, of: f"Tokens must lie in [0, {size}), which {wrong} of {of} do not.",
        )


__all__ = ["DiscreteSchedulerBase", "DiscreteSchedulerOutput"]
