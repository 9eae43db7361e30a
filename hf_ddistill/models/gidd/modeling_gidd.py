"""GIDD's network: capped attention over a learned first key, squared ReLU, scaled projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.models.gidd.configuration_gidd import GiddConfig


class ScaledLinear(nn.Module):
    """x W^T times a number, plus a bias."""

    def __init__(self, width: int, out: int, scale: str | float, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, width))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        named = {"fan_in": width**-0.5, "fan_out": out**-0.5}
        self.scale = named[scale] if isinstance(scale, str) else scale

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., out)."""
        y = nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias.to(x.dtype)


class OneCentredNorm(nn.Module):
    """Root mean square normalisation whose weight counts from 1."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """Of the last dimension, in float32."""
        size = x.float().pow(2).mean(-1, keepdim=True)
        return ((1 + self.weight) * (x * torch.rsqrt(size + self.eps))).to(x.dtype)


class GiddAttention(nn.Module):
    """Attention whose scores are capped, over a learned key and value and all that is seen."""

    def __init__(self, config: GiddConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.cap = config.attn_soft_cap
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, ScaledLinear(width, width, config.weight_scaling))
        self.q_norm = self.k_norm = self.k_bias = self.v_bias = None
        if config.use_qk_norm:
            self.q_norm = OneCentredNorm(width, config.rms_norm_eps)
            self.k_norm = OneCentredNorm(width, config.rms_norm_eps)
        if config.attention_bias:
            self.k_bias = nn.Parameter(torch.zeros(self.heads, width // self.heads))
            self.v_bias = nn.Parameter(torch.zeros(self.heads, width // self.heads))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """(B, L, width), with the rotary positions and (B, 1 or L, L) of what is seen."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = _turned(q.view(shape), *turn), _turned(k.view(shape), *turn), v.view(shape)
        if self.k_bias is not None:
            first = (len(x), 1, *self.k_bias.shape)
            k = torch.cat([self.k_bias.to(k.dtype).expand(first), k], 1)
            v = torch.cat([self.v_bias.to(v.dtype).expand(first), v], 1)
            seen = nn.functional.pad(seen, (1, 0), value=True)
        scores = torch.einsum("blhd,bmhd->bhlm", q * q.shape[-1] ** -0.5, k)
        scores = self.cap * torch.tanh(scores / self.cap)
        scores = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min)
        share = scores.float().softmax(-1).to(v.dtype)
        return self.o_proj(torch.einsum("bhlm,bmhd->blhd", share, v).flatten(2))


class GiddMLP(nn.Module):
    """Two projections with a squared ReLU between them."""

    def __init__(self, config: GiddConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.up_proj = ScaledLinear(width, inner, config.weight_scaling, config.mlp_bias)
        self.down_proj = ScaledLinear(inner, width, config.weight_scaling, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return self.down_proj(torch.relu(self.up_proj(x)) ** 2)


class GiddLayer(nn.Module):
    """Attention and MLP, both of what was normalised, each added with a weight."""

    def __init__(self, config: GiddConfig) -> None:
        super().__init__()
        self.share = config.resid_scale / config.num_hidden_layers
        self.self_attn, self.mlp = GiddAttention(config), GiddMLP(config)
        self.attn_layernorm = OneCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp_layernorm = OneCentredNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """As `GiddAttention`."""
        x = x + self.share * self.self_attn(self.attn_layernorm(x), turn, seen)
        return x + self.share * self.mlp(self.mlp_layernorm(x))


class GiddModel(nn.Module):
    """Embeddings, layers and the last normalisation."""

    def __init__(self, config: GiddConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GiddLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = OneCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.theta, self.head = config.rope_theta, config.hidden_size // config.num_attention_heads

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        """(B, L) to (B, L, width)."""
        x = self.embed_tokens(ids)
        count = torch.arange(0, self.head, 2, device=ids.device).float()
        angle = torch.arange(ids.shape[1], device=ids.device).float()[:, None]
        angle = angle * self.theta ** (-count / self.head)
        turn = (angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype))
        for layer in self.layers:
            x = layer(x, turn, seen)
        return self.norm(x)


class GiddLM(PreTrainedModel):
    """
    Logits of the tokens of a sequence, all of which see each other.

    References:
        Scaling Behavior of Discrete Diffusion Language Models (2025),
        https://arxiv.org/abs/2512.10858
    """

    config: GiddConfig
    config_class = GiddConfig
    base_model_prefix = "model"
    _keep_in_fp32_modules_strict = ("q_norm", "k_norm", "attn_layernorm", "mlp_layernorm", "norm")

    def __init__(self, config: GiddConfig) -> None:
        super().__init__(config)
        self.model = GiddModel(config)
        self.lm_head = ScaledLinear(config.hidden_size, config.vocab_size, config.head_scaling)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScaledLinear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def get_input_embeddings(self) -> nn.Module:
        """Those of the tokens."""
        return self.model.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        at: Tensor | None = None,
        *,
        context: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_t.
            attention_mask (`torch.Tensor` of the same shape, *optional*): 0 at padding.
            at (`torch.LongTensor` of shape `(N,)`, *optional*): row * length + position of those
                to answer for.
            context (`torch.Tensor` of the same shape as `input_ids`, *optional*): 1 at tokens that
                are known, such as a prompt's: they see known ones alone.

        Returns:
            `MaskedLMOutput`: `logits` of shape (batch_size, length, K), or (N, K).
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = real.bool()[:, None].expand(-1, input_ids.shape[1], -1)
        if context is not None:
            known = context.bool()
            seen = seen & (known[:, None] | ~known[:, :, None])
        hidden = self.model(input_ids, seen)
        if at is not None:
            hidden = hidden.flatten(0, 1)[at]
        if self.config.tie_word_embeddings:
            logits = hidden @ self.model.embed_tokens.weight.t()
        else:
            logits = self.lm_head(hidden)
        return MaskedLMOutput(logits=logits)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


__all__ = ["GiddLM"]
