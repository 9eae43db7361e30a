r"""Building blocks of the discrete diffusion transformer: condition, rotary positions, attention.

Notation: B batch, L length, h hidden size, c condition vector (B, cond_dim), t in [0, 1] time.
With c, a block is `x += g * Attention((1 + s) * LN(x) + b)` and the same for its MLP, where b, s, g
are linear in c and start at zero; without any condition it is the plain pre-norm block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_ddit import DDiTConfig

_FREQUENCIES = 256


def timestep_features(timesteps: torch.Tensor, scale: float = 1000.0) -> torch.Tensor:
    """Features `[cos | sin](scale t * 10000^(-k / 128))` of times t (B,), float32 (B, 256)."""
    half = _FREQUENCIES // 2
    exponents = torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    angles = scale * timesteps.float()[:, None] * 10000.0**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_angles(config: DDiTConfig, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (..., head_dim), float32, of positions (...); each axis of `token_shape`
    has equal channels."""
    axes = len(config.token_shape or [1])
    share = config.hidden_size // config.num_attention_heads // axes
    coordinates = [index]
    if config.token_shape is not None:
        coordinates = list(torch.unravel_index(index, config.token_shape))
    exponents = torch.arange(0, share, 2, device=index.device, dtype=torch.float32) / share
    inverse_frequencies = config.rope_theta**-exponents
    angles = torch.cat([x.float()[..., None] * inverse_frequencies for x in coordinates], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the channel pairs (i, i + head_dim / 2) of states (B, heads, L, head_dim)."""
    x = states.float()
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(states.dtype)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention that also returns its weights (B, heads, L, L)."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class DDiTLayerNorm(nn.Module):
    """Layer norm with a weight and no bias, computed in float32."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.float()
        return nn.functional.layer_norm(x.float(), weight.shape, weight, eps=self.eps).to(x.dtype)


class DDiTModulation(nn.Module):
    """Linear map of c to `chunks` vectors of width h, zero at the start (adaLN-zero)."""

    def __init__(self, config: DDiTConfig, chunks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(config.cond_dim, chunks * config.hidden_size)
        self.linear.init_std = 0.0
        self.chunks = chunks

    def forward(self, condition: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(condition)[:, None].chunk(self.chunks, dim=-1)


def at_rows(
    modulations: Sequence[torch.Tensor], at: torch.Tensor | None, length: int
) -> list[torch.Tensor]:
    """Modulations (B, 1, h) as they are, or those (N, h) of the rows that `at` is in."""
    if at is None:
        return list(modulations)
    return [each[:, 0].index_select(0, at // length) for each in modulations]


class DDiTCondition(nn.Module):
    """Condition vector `c = silu(MLP(features(t)) + class embedding)` (B, cond_dim)."""

    def __init__(self, config: DDiTConfig) -> None:
        super().__init__()
        self.config = config
        # c needs entries of order one, or the modulations that multiply it learn slowly.
        if config.time_conditioning:
            self.time_in = nn.Linear(_FREQUENCIES, config.cond_dim)
            self.time_out = nn.Linear(config.cond_dim, config.cond_dim)
            self.time_in.init_std = _FREQUENCIES**-0.5
            self.time_out.init_std = config.cond_dim**-0.5
        if config.num_classes:
            self.class_embedding = nn.Embedding(config.num_classes + 1, config.cond_dim)
            self.class_embedding.init_std = 1.0

    def forward(
        self,
        timesteps: torch.Tensor | None,
        class_labels: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
    ) -> torch.Tensor:
        batch, device = inputs_embeds.shape[0], inputs_embeds.device
        condition = 0
        if self.config.time_conditioning:
            features = self._features(timesteps, batch, device)
            hidden = nn.functional.silu(self.time_in(features.to(self.time_in.weight.dtype)))
            condition = self.time_out(hidden)
        if self.config.num_classes:
            if class_labels is None:
                class_labels = torch.full((batch,), self.config.num_classes, device=device)
            condition = condition + self.class_embedding(class_labels.to(device))
        return nn.functional.silu(condition)

    def _features(
        self, timesteps: torch.Tensor | None, batch: int, device: torch.device
    ) -> torch.Tensor:
        """Those of the time of each row; sigma is taken as it is and t a thousandfold, if nothing
        else is said."""
        if self.config.time_input == "zero":
            return timestep_features(torch.zeros(batch, device=device))
        if timesteps is None:
            raise ValueError(
                "timesteps is None: a model with time_conditioning needs the time "
                f"{self.config.time_input} of each row"
            )
        scale = self.config.time_scale
        if scale is None:
            scale = 1000.0 if self.config.time_input == "t" else 1.0
        return timestep_features(timesteps.to(device).expand(batch), scale)


class DDiTAttention(nn.Module):
    """Bidirectional self-attention with a fused, bias-free projection (three, head, channel); with
    a cache, in which `layer_idx` is its number, to all keys there."""

    def __init__(self, config: DDiTConfig, layer_idx: int = 0) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        at: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        shape = hidden_states.shape[:-1]
        qkv = self.qkv(hidden_states).view(*shape, 3, -1, self.head_dim)
        query, key, value = (x.transpose(1, 2) for x in qkv.unbind(dim=-3))
        if position_embeddings is not None:
            query, key = (rotate(x, *position_embeddings) for x in (query, key))
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = output.reshape(*shape, -1).contiguous()
        if at is not None:
            output = output.flatten(0, 1).index_select(0, at)
        return self.out(output), weights


class DDiTMLP(nn.Module):
    """`down(gelu(up(x)))` with the tanh approximation and biases."""

    def __init__(self, config: DDiTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x), approximate="tanh"))


class DDiTLayer(GradientCheckpointingLayer):
    """One block: attention and MLP branches, normalised, modulated by c if any, gated, added."""

    def __init__(self, config: DDiTConfig, layer_idx: int = 0) -> None:
        super().__init__()
        self.norm1 = DDiTLayerNorm(config.hidden_size, config.norm_eps)
        self.attn = DDiTAttention(config, layer_idx)
        self.norm2 = DDiTLayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = DDiTMLP(config)
        self.modulation = DDiTModulation(config, chunks=6) if config.is_conditional else None
        self.dropout = nn.Dropout(config.dropout)
        if self.modulation is None:
            # No gate holds the branches back: keep their sum over the depth at order one.
            std = config.initializer_range * (2 * config.num_hidden_layers) ** -0.5
            self.attn.out.init_std = self.mlp.down.init_std = std

    def forward(
        self,
        hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        at: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """(B, L, h); with `at`, row * L + position (N,), those alone as (N, h): of the last layer
        nobody reads the others, which as keys and values are all that the rest needs of them."""
        if self.modulation is None:
            shift_msa = scale_msa = shift_mlp = scale_mlp = 0.0
            gate_msa = gate_mlp = 1.0
        else:
            shift_msa, scale_msa, *rest = self.modulation(condition)
            gate_msa, shift_mlp, scale_mlp, gate_mlp = at_rows(rest, at, hidden_states.shape[1])
        branch = self.norm1(hidden_states) * (1 + scale_msa) + shift_msa
        branch, _ = self.attn(branch, attention_mask, position_embeddings, at, **kwargs)
        if at is not None:
            hidden_states = hidden_states.flatten(0, 1).index_select(0, at)
        hidden_states = hidden_states + gate_msa * self.dropout(branch)
        branch = self.mlp(self.norm2(hidden_states) * (1 + scale_mlp) + shift_mlp)
        return hidden_states + gate_mlp * self.dropout(branch)
