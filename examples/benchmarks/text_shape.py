"""How many numbers a decoder of the Llama family has, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextShape:
    """The shape of a decoder of the Llama family.

    Args:
        layers: how many.
        width: d.
        inner: f, of the gated feed-forward part.
        heads: h.
        kv_heads: k.
        head_dim: D.
        vocabulary: V, rows of the embeddings.
        tied: whether the head is the embeddings.
        qk_norm: whether queries and keys are normalised (Qwen3).
        qkv_bias: whether their projections have a bias (Qwen2).
    """

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qk_norm: bool = False
    qkv_bias: bool = False

    @classmethod
    def from_config(cls, config: Any) -> TextShape:  # noqa: ANN401 (of any text model)
        """Of a transformers text configuration.

        Raises:
            ValueError: for another family than Llama, Qwen2 and Qwen3, whose layers may differ.
        """
        kind = config.model_type
        if kind not in ("llama", "qwen2", "qwen3"):
            raise ValueError(
                f"The cost is known for llama, qwen2 and qwen3 models, got {kind!r}: what a layer "
                "keeps depends on its code."
            )
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            inner=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
            tied=config.tie_word_embeddings,
            qk_norm=kind == "qwen3",
            qkv_bias=kind == "qwen2",
        )

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the matrices of a layer: q, k, v, o, gate, up, down."""
        d, f, h, k = self.width, self.inner, self.heads_width, self.kv_heads * self.head_dim
        return (d, h), (d, k), (d, k), (h, d), (d, f), (d, f), (f, d)

    @property
    def heads_width(self) -> int:
        """h D."""
        return self.heads * self.head_dim

    @property
    def matrices(self) -> int:
        """Entries of the matrices of a layer."""
        return sum(i * o for i, o in self.projections)

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        bias = sum(o for _, o in self.projections[:3]) if self.qkv_bias else 0
        return self.matrices + 2 * self.width + 2 * self.head_dim * self.qk_norm + bias

    @property
    def parameters(self) -> int:
        """All parameters."""
        tables = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.layers * self.layer + tables + self.width

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters on all matrices of the layers."""
        return self.layers * rank * sum(i + o for i, o in self.projections)
