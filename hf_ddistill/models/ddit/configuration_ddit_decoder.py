"""Configuration of a discrete diffusion transformer that decodes: blocks of BD3LM."""

# No `from __future__ import annotations` here: `@strict` skips fields whose annotation is a string.
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_ddit import DDiTConfig


@strict
class DDiTDecoderConfig(DDiTConfig):
    r"""
    Configuration of a DDiT that is given its positions, its attention and a cache, as decoders of
    transformers are: what a block-diffusion model of this network is made around.

    References:
        Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models (2025),
        https://arxiv.org/abs/2503.09573

    Args:
        **kwargs: as `DDiTConfig`.

    Raises:
        ValueError: as there, and for inputs or positions that a decoder has not.
    """

    model_type = "ddit_decoder"

    def __post_init__(self, **kwargs: Any):  # noqa: ANN401, ANN204 (the base class decides both)
        super().__post_init__(**kwargs)
        fixed = {"noise_dim": 0, "num_classes": 0, "position_embedding": "rotary"}
        fixed["token_shape"] = None
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}={getattr(self, name)!r}: a decoding DDiT has {value!r}")
        if self.reads_time is not None:
            raise ValueError(
                f"time_input={self.time_input!r}: a decoding DDiT reads no time, but 'zero'"
            )


__all__ = ["DDiTDecoderConfig"]
