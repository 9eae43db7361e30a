"""Configuration of the discrete diffusion transformer.

Notation: K vocabulary size (mask token included), L sequence length.
"""

# No `from __future__ import annotations` here: `@strict` skips fields whose annotation is a string.
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

_POSITION_EMBEDDINGS = ("rotary", "learned", "rotary_learned")
_TIME_INPUTS = ("t", "sigma", "zero")
#: Processes whose mask is the last token unless they name another. By their names: this file is
#: saved beside weights and runs without the package, whose own entries name the mask in any case.
_MASKED_LAST = ("absorbing", "hybrid")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "cond_dim")
_SIZES += ("intermediate_size", "max_position_embeddings")
# Arguments that `PreTrainedConfig.__post_init__` takes besides the dataclass fields.
_BASE_ARGUMENTS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "torch_dtype",
    }
)


@strict
class DDiTConfig(PreTrainedConfig):
    r"""
    Configuration of a discrete diffusion transformer (DDiT): the bidirectional transformer block
    with adaptive layer norm that SEDD, MDLM and Duo share.

    References:
        Scalable Diffusion Models with Transformers (2022), https://arxiv.org/abs/2212.09748
        Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (2023),
        https://arxiv.org/abs/2310.16834

    Args:
        vocab_size (`int`): K, the mask token included.
        hidden_size (`int`): width of the residual stream.
        num_hidden_layers (`int`): number of blocks.
        num_attention_heads (`int`): must divide `hidden_size`.
        intermediate_size (`int`, *optional*): width of the MLP; `4 * hidden_size` if not given.
        max_position_embeddings (`int`): greatest L; the size of `token_shape` if that is given.
        position_embedding (`str`): `"rotary"` (relative), `"learned"` (absolute) or
            `"rotary_learned"` (both). Rotary positions alone cannot tell the positions of a
            constant input apart (all masked, say): data of a fixed size, such as images, want
            `"rotary_learned"`.
        token_shape (`list[int]`, *optional*): grid of the tokens, row-major, such as `[8, 8]`.
            Rotary positions are then axial: each axis has an equal share of the head dimension.
        time_conditioning (`bool`): whether the blocks are modulated by a time.
        time_input (`str`): which time `timesteps` holds then: `"t"` in [0, 1], `"sigma"`, the total
            noise (SEDD, Duo), or `"zero"`: none is read and it is always 0 (MDLM's published
            networks, whose modulation was trained at that one time).
        time_scale (`float`, *optional*): of the time before its features; 1000 of t, 1 of sigma.
        cond_dim (`int`): width of the condition vector.
        noise_dim (`int`): width of the noise input; 0 for none.
        noise_per (`str`): `"position"`, or `"sequence"`: all positions see the same noise.
        num_classes (`int`): number of class labels; the label `num_classes` is the null
            class. 0 for none.
        dropout (`float`): dropout of both residual branches.
        attention_dropout (`float`): dropout of the attention weights.
        initializer_range (`float`, *optional*): standard deviation of the linear layers;
            `(3 * hidden_size) ** -0.5` if not given (0.0208 at 768).
        embedding_initializer_range (`float`): standard deviation of the token embeddings; tied
            ones are the output head too and start at no more than `hidden_size ** -0.5`.
        position_initializer_range (`float`, *optional*): standard deviation of the learned
            positions; that of the token embeddings if not given. Much smaller ones are drowned by
            the tokens, and the model learns only marginals.
        rope_theta (`float`): base of the rotary frequencies.
        norm_eps (`float`): epsilon of the layer norms.
        mask_token_id (`int`, *optional*): index of the mask token.
        discrete_diffusion (`dict`, *optional*): the process that the model was trained for,
            `{"process": {...}, "schedule": {...}, "parameterization": "..."}`.

    Raises:
        ValueError: for sizes that do not fit together and for an unknown argument. (Unknown
            entries of a saved `config.json` are kept, as for every model.)
    """

    model_type = "ddit"

    vocab_size: int = 50258
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    max_position_embeddings: int = 1024
    position_embedding: str = "rotary"
    token_shape: list[int] | tuple[int, ...] | None = None
    time_conditioning: bool = False
    time_input: str = "t"
    time_scale: float | int | None = None
    cond_dim: int = 128
    noise_dim: int = 0
    noise_per: str = "position"
    num_classes: int = 0
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    initializer_range: float | None = None
    embedding_initializer_range: float = 0.3
    position_initializer_range: float | None = None
    rope_theta: float | int = 10000.0
    norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    discrete_diffusion: dict | None = None

    def __post_init__(self, **kwargs: Any):  # noqa: ANN401, ANN204 (the base class decides both)
        unknown = sorted(key for key in kwargs if key not in _BASE_ARGUMENTS)
        # Only a saved configuration carries the version, and what another tool added to its file
        # must not stop a load.
        if unknown and self.transformers_version is None:
            raise ValueError(
                f"unknown argument(s) {', '.join(unknown)}: DDiTConfig accepts the arguments in "
                "its docstring and those of PreTrainedConfig, generation parameters excepted"
            )
        for name in _SIZES:
            if (size := getattr(self, name)) is not None and size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.initializer_range is None:
            self.initializer_range = (3 * self.hidden_size) ** -0.5
        if self.token_shape is not None:
            self.token_shape = list(self.token_shape)
            self.max_position_embeddings = math.prod(self.token_shape)
        self._check_sizes()
        super().__post_init__(**kwargs)

    def _check_sizes(self) -> None:
        for name in ("noise_dim", "num_classes"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at least 0 (0 turns it off)"
                )
        if self.noise_per not in ("position", "sequence"):
            raise ValueError(f"noise_per={self.noise_per!r} must be 'position' or 'sequence'")
        if self.position_embedding not in _POSITION_EMBEDDINGS:
            raise ValueError(
                f"position_embedding={self.position_embedding!r} must be one of "
                f"{_POSITION_EMBEDDINGS}"
            )
        if self.time_input not in _TIME_INPUTS:
            raise ValueError(f"time_input={self.time_input!r} must be one of {_TIME_INPUTS}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}: every head has the same width"
            )
        if self.token_shape is not None and (not self.token_shape or min(self.token_shape) < 1):
            raise ValueError(
                f"token_shape={self.token_shape} must list positive sizes, one per axis"
            )
        axes = len(self.token_shape or [1])
        head_dim = self.hidden_size // self.num_attention_heads
        if self.has_rotary_positions and head_dim % (2 * axes):
            raise ValueError(
                f"the head dimension hidden_size / num_attention_heads = {head_dim} must be a "
                f"multiple of {2 * axes}: rotary positions turn pairs of channels, equally many "
                f"for each of {axes} axes"
            )

    def process_of_size(self, vocab_size: int) -> dict[str, Any] | None:
        """The process in `discrete_diffusion` over `vocab_size` tokens, its mask the same token;
        None where there is no process.

        Raises:
            ValueError: for a process that is given by matrices over its tokens, or if the mask
                would be none of the tokens.
        """
        process = (self.discrete_diffusion or {}).get("process")
        if not isinstance(process, dict):
            return None
        lists = [value for value in process.values() if isinstance(value, list | tuple | dict)]
        if any(isinstance(v, dict) or {*map(type, v)} - {int} for v in lists):
            raise ValueError(
                f"the process {process.get('type')!r} in discrete_diffusion is given by matrices "
                f"over {self.vocab_size} tokens, and there are none for {vocab_size}: set "
                "config.discrete_diffusion to a process over those, or to None, first"
            )
        if (named := max((max(tokens, default=-1) for tokens in lists), default=-1)) >= vocab_size:
            raise ValueError(f"token {named} of the process must stay one of the {vocab_size}")
        mask = process.get("mask_token_id")
        if mask is None and process.get("type") in _MASKED_LAST:
            mask = process["vocab_size"] - 1
        if mask is None:
            return process | {"vocab_size": vocab_size}
        if mask >= vocab_size:
            raise ValueError(f"the mask, token {mask}, must stay one of the {vocab_size} tokens")
        return process | {"vocab_size": vocab_size, "mask_token_id": mask}

    @property
    def has_rotary_positions(self) -> bool:
        """Whether attention turns queries and keys by their positions."""
        return self.position_embedding in ("rotary", "rotary_learned")

    @property
    def has_learned_positions(self) -> bool:
        """Whether a learned vector per position is added to the token embeddings."""
        return self.position_embedding in ("learned", "rotary_learned")

    @property
    def reads_time(self) -> str | None:
        """The time that the network is given: "t" in [0, 1], "sigma", or None."""
        read = self.time_conditioning and self.time_input != "zero"
        return self.time_input if read else None

    @property
    def is_conditional(self) -> bool:
        """Whether blocks are modulated by a condition vector (time, class or both)."""
        return self.time_conditioning or self.num_classes > 0


__all__ = ["DDiTConfig"]
