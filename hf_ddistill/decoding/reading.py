"""What a block-diffusion model says of some blocks of a canvas, with the keys and values that stay
from call to call.

A canvas has C columns; A is the block size of the attention, s is 1 where the head is shifted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

#: Caches: none; of finished blocks; of all columns but those in work.
CACHES = ("none", "finished", "dual")


@dataclass
class BlockReader:
    """Logits of a range of columns, call after call, from left to right.

    "finished" keeps the keys and values of blocks that will not change: the logits are those of
    "none". "dual" matters where the attention reaches beyond the range: all columns are computed
    when a new range starts, and until it ends the keys and values of the columns on both sides of
    it are taken from that call. That is an approximation, since what those columns hold depends on
    the range, too. (The test of this, a trained model of full attention that decodes 10 of 16
    tokens in blocks of 4: 95 % of the tokens are those decoded without; right are 86 %, without
    85 %.) With several blocks in work the range is all of them, and a block that enters or ends
    refreshes the rest: then what a row decodes depends on when the rows beside it do so.

    References:
        Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel
        Decoding (2025), https://arxiv.org/abs/2505.22618
        d3LLM: Ultra-Fast Diffusion LLM using Pseudo-Trajectory Distillation (2026),
        https://arxiv.org/abs/2601.07568

    Args:
        model: a `BlockDiffusionLM`, perhaps wrapped.
        real: (B, C) bool, False at padding.
        block_size: A.
        cache: one of "none", "finished", "dual".
    """

    model: Any
    real: Tensor
    block_size: int
    cache: str = "finished"
    _kept: DynamicCache = field(init=False)
    _columns: Tensor = field(init=False)
    _settled: int = field(init=False, default=0)
    _range: tuple[int, int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._kept = DynamicCache()
        self._columns = torch.arange(0, device=self.real.device)

    def __call__(self, ids: Tensor, start: int, stop: int, noise: Tensor | None = None) -> Tensor:
        """Logits (B, stop - start, K), float32, of the canvas `ids` (B, C), with noise (B, stop -
        start, noise_dim) for a model that takes it.

        All blocks of the attention that end before `start` must be finished.
        """
        size, shift = self.block_size, int(self.model.config.shift_logits)
        # A shifted head reads a block's first token at the end of the block before.
        settled = max(start // size * size - shift, 0)
        end = min(-(-stop // size) * size, ids.shape[1])
        inside = max(start - shift, 0)
        again = self.cache == "dual" and self._range == (start, stop)
        if again:
            first, last = inside, stop
        else:
            self._keep(self._columns < self._settled)
            first, last = len(self._columns), end
        queries = torch.arange(first, last, device=ids.device)
        self._columns = torch.cat([self._columns, queries])
        rows = torch.arange(len(ids), device=ids.device)[:, None] * (last - first)
        wanted = queries[start - first : stop - first] - first
        more = {}
        if noise is not None:
            more["noise"] = noise.new_zeros(len(ids), last - first, noise.shape[-1])
            more["noise"][:, start - first : stop - first] = noise
        logits = self.model(
            input_ids=ids[:, queries],
            attention_mask=self.real[:, :end],
            at=(rows + wanted).flatten(),
            block_size=self.block_size,
            columns=self._columns,
            cache=None if self.cache == "none" else self._kept,
            **more,
        ).logits
        if self.cache == "dual":
            self._keep((self._columns < inside) | (self._columns >= stop))
        else:
            self._keep(self._columns < (settled if self.cache == "finished" else 0))
        self._settled, self._range = settled if self.cache != "none" else 0, (start, stop)
        return logits.float().unflatten(0, (len(ids), -1))

    def _keep(self, kept: Tensor) -> None:
        """Keep the keys and values of some of the columns, bool like `_columns`."""
        if bool(kept.all()):
            return
        index = kept.nonzero()[:, 0]
        if bool((index == torch.arange(len(index), device=index.device)).all()):
            index = slice(len(index))  # a beginning: no copy
        self._columns = self._columns[index]
        for layer in self._kept.layers:
            layer.keys, layer.values = layer.keys[..., index, :], layer.values[..., index, :]
