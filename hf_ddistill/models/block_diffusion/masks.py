"""Which positions see which: the attention masks of block diffusion, through transformers' own mask
utilities, for every attention implementation that takes a mask.

A *column* is a position of the padded batch, counted from 0; column c is in block c // b.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS


@dataclass(frozen=True)
class Layout:
    """Where the keys and queries of one call stand.

    Args:
        columns: (S,) int64, the column of each key.
        queries: (1 or B, n) int64, which of the keys are the queries, for all rows or for each.
        block_size: b.
        clean: (S,) bool, True at the keys of a clean copy that noisy tokens look back at; None
            where there is one copy of the tokens.
        real: (B, columns) bool, False at padding; None where there is none.
        causal: whether a token sees nothing behind it, in its own block either.
        finished: (1 or B,), the column before which that holds of each row where there is one copy;
            None for nowhere.
        causal_context: whether it holds of a clean copy.
    """

    columns: Tensor
    queries: Tensor
    block_size: int
    clean: Tensor | None = None
    real: Tensor | None = None
    causal: bool = False
    finished: Tensor | None = None
    causal_context: bool = False

    def positions(self) -> Tensor:
        """(1 or B, n), position of each query among the tokens of its row."""
        columns = self.columns[self.queries]
        if self.real is None:
            return columns
        counted = (self.real.long().cumsum(1) - 1).clamp_min(0)
        return counted.gather(1, columns.expand(len(counted), -1))

    def rule(self, window: int | None = None) -> Callable[..., Tensor]:
        """Whether a query sees a key: (row, head, query, key) -> bool, by index, that of a query
        among the queries.

        A clean token sees the clean tokens of its block and of those before. A noisy one sees the
        noisy tokens of its block and the clean ones of the blocks before (BD3LM, Arriola et al.,
        2025, arXiv:2503.09573). With one copy each sees its block and those before. Of a causal
        context a finished or clean token sees none behind it.

        Args:
            window: of sliding attention: keys this far or farther to the left are not seen.
        """
        columns, size, clean, real = self.columns, self.block_size, self.clean, self.real
        causal, queries, finished = self.causal, self.queries, self.finished
        causal_copy = self.causal_context

        def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            query = queries[0][query] if len(queries) == 1 else queries[row, query]
            here, there = columns[query], columns[key]
            start = here // size * size
            if clean is None:
                seen = there < start + size
                if finished is not None:
                    working = finished[row if len(finished) > 1 else 0]
                    seen = seen & ((there <= here) | (here >= working))
            else:
                same = (there >= start) & (there < start + size)
                if causal_copy:
                    same = same & ((there <= here) | ~clean[query])
                seen = (clean[key] & (there < start)) | ((clean[key] == clean[query]) & same)
            if causal:
                seen = seen & (there <= here)
            if window is not None:
                seen = seen & (here - there < window)
            if real is not None:
                # Padding sees itself: a query without any key would be NaN.
                seen = (seen & real[row, there]) | (query == key)
            return seen

        return sees


def layout_of(
    shape: tuple[int, int],
    clean_ids: Tensor | None,
    attention_mask: Tensor | None,
    columns: Tensor,
    block_size: int,
    cache: Cache | None,
) -> Layout:
    """The layout of a call of `BlockDiffusionLM`, from its arguments.

    Raises:
        ValueError: for a clean copy of another shape.
    """
    real = None if attention_mask is None else attention_mask.bool()
    if columns.ndim == 2:
        stop = columns.shape[1] if cache is None else cache.get_seq_length()
        keys = torch.arange(stop, device=columns.device)
        return Layout(keys, columns, block_size, None, real)
    length, device = shape[1], columns.device
    if clean_ids is None:
        queries = torch.arange(len(columns) - length, len(columns), device=device)[None]
        return Layout(columns, queries, block_size, None, real)
    if clean_ids.shape != shape:
        raise ValueError(
            f"clean_ids has shape {tuple(clean_ids.shape)} and input_ids "
            f"{shape}: they are two states of the same tokens."
        )
    both = torch.arange(2 * length, device=device)
    return Layout(columns.repeat(2), both[None], block_size, both < length, real)


def attention_masks(
    config: PreTrainedConfig, layout: Layout, rows: int, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """The mask of a call as a decoder takes it: one, or one for each kind of its layers.

    Args:
        config: of the decoder; its attention implementation decides the form of a mask.
        layout: of the call.
        rows: B.
        dtype: of the hidden states.

    Raises:
        ValueError: for an attention implementation that takes no mask, and for layers that are
            neither full nor sliding attention.
    """
    implementation = config._attn_implementation
    if "flash" in implementation:
        raise ValueError(
            f"Attention {implementation!r} takes no mask, which blocks need; load the model with "
            "attn_implementation='sdpa', 'flex_attention' or 'eager'."
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    unknown = sorted(kinds - {"full_attention", "sliding_attention"})
    if unknown:
        raise ValueError(
            f"Layers of kind {', '.join(unknown)} read the tokens in order and cannot become block "
            "diffusion; full and sliding attention can."
        )

    def mask(window: int | None) -> Tensor:
        total = len(layout.columns)
        return ALL_MASK_ATTENTION_FUNCTIONS[implementation](
            batch_size=rows,
            q_length=layout.queries.shape[1],
            kv_length=total,
            q_offset=0,
            kv_offset=0,
            mask_function=layout.rule(window),
            attention_mask=None,
            allow_is_causal_skip=False,
            allow_is_bidirectional_skip=False,
            dtype=dtype,
            config=config,
            use_vmap=False,
            device=layout.columns.device,
        )

    if "sliding_attention" not in kinds:
        return mask(None)
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    return {kind: mask(windows[kind]) for kind in kinds}
