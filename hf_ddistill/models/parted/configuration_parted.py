"""Configuration of several students that share a task."""

# No `from __future__ import annotations` here: `@strict` skips fields whose annotation is a string.
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

#: What is the same of all students, and said for whoever opens the whole.
SHARED = ("vocab_size", "max_position_embeddings", "token_shape", "num_classes", "noise_dim")
SHARED += ("noise_per", "mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
SHARED += ("held_tokens",)


@strict
class PartedLMConfig(PreTrainedConfig):
    r"""
    Configuration of a `PartedLM`.

    Args:
        parts (`list[dict]`): the configuration of each student.
        bounds (`list[float]`, *optional*): between the intervals of time that the students own,
            ascending in (0, 1); student k owns bounds[k - 1] < t <= bounds[k].
        groups (`list[list[int]]`, *optional*): or the classes that each student owns.
        reads_time (`str`, *optional*): "t" where the time decides who is asked, or one of them
            reads it.
        vocab_size, max_position_embeddings, token_shape, num_classes, noise_dim, noise_per,
            mask_token_id, pad_token_id, bos_token_id, eos_token_id, held_tokens: as of the students
            themselves.
        discrete_diffusion (`dict`, *optional*): what all were trained for.

    Raises:
        ValueError: unless there are students, and either bounds or groups.
    """

    model_type = "parted_lm"

    parts: list[dict] | None = None
    bounds: list[float] | tuple[float, ...] | None = None
    groups: list[list[int]] | tuple[tuple[int, ...], ...] | None = None
    reads_time: str | None = "t"
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    token_shape: list[int] | None = None
    num_classes: int = 0
    noise_dim: int = 0
    noise_per: str = "position"
    tie_word_embeddings: bool = False
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    held_tokens: dict | None = None
    discrete_diffusion: dict | None = None

    def __post_init__(self, **kwargs: Any):  # noqa: ANN401, ANN204 (the base class decides both)
        super().__post_init__(**kwargs)
        # transformers makes configurations without any arguments, too.
        if self.parts is not None and (self.bounds is None) == (self.groups is None):
            raise ValueError(
                "Students share a task by times or by classes: give bounds or groups, one of the "
                f"two, got bounds={self.bounds} and groups={self.groups}."
            )


__all__ = ["PartedLMConfig"]
