"""Samples from a model itself, without a pipeline: for those who have its files and no install."""

from __future__ import annotations

from typing import Any

from hf_ddistill.models.as_denoiser import as_denoiser, diffusion_entry, sampler_of
from hf_ddistill.models.held import blank_canvas
from hf_ddistill.models.positions import sequence_length
from hf_ddistill.shapes import Generators, Tokens


class Sampling:
    """Mixed into a model, before it: what its configuration says of its sampling, as a method."""

    def sample(
        self,
        batch_size: int = 1,
        num_steps: int | None = None,
        length: int | None = None,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """Tokens (batch_size, length), by the sampler that the model was trained for.

        Args:
            batch_size: number of rows.
            num_steps: at most as many calls of the network; the model's own number if not given.
            length: the model's largest if not given.
            generator: of all random numbers, or a list with one for each row.
            **condition: inputs of the model, such as `class_labels`.

        Raises:
            ValueError: for a number out of its range or not known, and whatever the configuration
                says that cannot be read.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}.")
        if num_steps is None:
            num_steps = diffusion_entry(self.config).get("num_inference_steps")
        if num_steps is None:
            raise ValueError("Give num_steps: the model's configuration names no number of steps.")
        shape = (batch_size, sequence_length(self, length))
        canvas = blank_canvas(self.config, shape, self.device)
        denoiser = as_denoiser(self)
        return sampler_of(self).sample(denoiser, canvas, num_steps, generator, **condition)


__all__ = ["Sampling"]
