"""The settings of `BlockDiffusionLM.generate` as an object with a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from transformers import GenerationConfig

from hf_ddistill.models.block_diffusion.generation_settings import METADATA, OWN
from hf_ddistill.unmasking import Unmasking


class BlockDiffusionGenerationConfig(GenerationConfig):
    """
    Settings of `BlockDiffusionLM.generate`, kept in `generation_config.json`.

    Beside those of transformers (`docs/generate_settings.md` says which are acted on):

    Args:
        unmasking (`str` or `dict`): the rule by which a call decides tokens, with its settings
            (`hf-ddistill list`); "threshold" if not given.
        steps_per_block (`int`, *optional*): calls that a "static" rule plans for a block; as many
            as tokens if not given.
        block_size (`int`, *optional*): instead of the model's, the attention's with it.
        sub_block_size (`int`, *optional*): tokens in a block that is decoded, a part of one of the
            attention's. A model of full attention decodes all new tokens as one block if it is not
            given, and block by block ("semi-autoregressive") if it is.
        max_active_blocks, block_add_threshold, block_activate_threshold, early_threshold: blocks
            that are decoded at the same time, see `Pipelining`.
        verify_with_base (`bool`): the tokens of a call are a draft that the model's base verifies,
            see `decode_verified`; no unmasking rule is asked then.
        dual_cache (`bool`): keep, while a block is decoded, keys and values of what lies on both
            sides of it: an approximation, for attention that reaches beyond the block.
    """

    # Of the class, so that a file holds only those that are set.
    unmasking: str | Mapping[str, Any] | Unmasking | None = None
    steps_per_block: int | None = None
    block_size: int | None = None
    sub_block_size: int | None = None
    verify_with_base: bool | None = None
    dual_cache: bool | None = None
    max_active_blocks: int | None = None
    block_add_threshold: float | None = None
    block_activate_threshold: float | None = None
    early_threshold: float | None = None

    def __init__(self, **kwargs: Any) -> None:
        for name in OWN.keys() & kwargs.keys():
            setattr(self, name, kwargs.pop(name))
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        plain = super().to_dict()
        if isinstance(self.unmasking, Unmasking):
            plain["unmasking"] = self.unmasking.to_config()
        return plain

    @classmethod
    def from_model_config(cls, model_config: Any) -> Self:
        """There is no such thing: a model's `block_size` is no setting of `generate`. (The base
        class, told so, starts from the defaults.)"""
        raise NotImplementedError

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Raise for a rule that there is not; what goes together differs from transformers' own
        decoding, and is checked by `generate`."""
        if self.unmasking is not None:
            Unmasking.from_config(self.unmasking)


def settings_of(config: GenerationConfig) -> dict[str, Any]:
    """What a config sets, without what it says about itself."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if value is not None and name not in METADATA
    }


__all__ = ["BlockDiffusionGenerationConfig", "settings_of"]
