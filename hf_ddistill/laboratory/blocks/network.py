"""The networks of the block laboratory: a small one to train, and the exact teacher.

K tokens, the mask among them; L positions in blocks of b.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, one_hot

from hf_ddistill.denoisers import Denoiser, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.blocks.tables import CausalTable, block_table
from hf_ddistill.laboratory.network import Counted
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.places import Places
from hf_ddistill.shapes import Tokens


class BlockNetwork(nn.Module):
    """Two hidden layers on what a position may see, read in blocks or, with `causal=True`, from
    left to right.

    In blocks it sees the clean tokens before its block and the block's own state; causally the
    tokens before it. What it does not see is told apart from a mask.

    Args:
        vocab_size: K.
        length: L.
        block_size: b, where a call does not say another one.
        width: of the hidden layers.
    """

    def __init__(self, vocab_size: int, length: int, block_size: int, width: int = 192) -> None:
        super().__init__()
        self.vocab_size, self.length, self.block_size = vocab_size, length, block_size
        self.width = width
        self.first = nn.Linear(length * (vocab_size + 1) + length, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, vocab_size)

    def forward(
        self,
        x: Tokens,
        t: Tensor | None = None,
        *,
        at: Tensor | None = None,
        clean_ids: Tokens | None = None,
        block_size: int | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Logits (B, n, K) of n columns, from the first, or (N, K) at the positions of `at` alone;
        `clean_ids` (B, n) are the blocks before, x itself if not given."""
        index = torch.arange(x.numel()) if at is None else at
        rows, place = index // x.shape[1], index % x.shape[1]
        seen = self._seen(x, clean_ids, rows, place, (block_size or self.block_size, causal))
        own = one_hot(place, self.length)
        features = torch.cat([one_hot(seen, self.vocab_size + 1).flatten(1), own], 1).float()
        logits = self.last(gelu(self.middle(gelu(self.first(features)))))
        return logits if at is not None else logits.view(*x.shape, -1)

    def _seen(
        self,
        x: Tokens,
        clean_ids: Tokens | None,
        rows: Tensor,
        place: Tensor,
        reading: tuple[int, bool],
    ) -> Tensor:
        """(N, L), what each position asked sees; K where it sees nothing."""
        (size, causal), columns = reading, torch.arange(x.shape[1])
        start = (place // size * size)[:, None]
        source = x if clean_ids is None else clean_ids
        before = columns < start
        end = place[:, None] if causal else start + size
        seen = torch.where(before, source[rows], x[rows])
        seen = seen.masked_fill(~(before | (columns < end)), self.vocab_size)
        return nn.functional.pad(seen, (0, self.length - x.shape[1]), value=self.vocab_size)


class ExactBlocks(nn.Module):
    """A law's own conditionals, from left to right (`causal=True`) or given the state of a block.

    Args:
        law: p, (C^L,) in product order, positive.
        block_size: b.
        diffusion: gives the tokens.
    """

    def __init__(self, law: Tensor, block_size: int, diffusion: Diffusion) -> None:
        super().__init__()
        self.causal = CausalTable(law, diffusion)
        self.blocks = block_table(law, block_size, diffusion).requires_grad_(False)

    def forward(
        self, x: Tokens, t: Tensor | None = None, *, causal: bool = False, **given: Any
    ) -> Tensor:
        """Logits (B, n, K), or (N, K) at `at`.

        Raises:
            ValueError: for masks before a block that is asked about: those states have no row.
        """
        if causal:
            return self.causal(x, t, **given)
        asked, clean = given.get("at"), given.get("clean_ids")
        if asked is not None and clean is None:
            size = self.blocks.block_size
            asked = Places(asked, x.shape).where
            last = (asked * torch.arange(x.shape[1])).amax(1, keepdim=True) // size * size
            if bool(((x == self.blocks.mask) & (torch.arange(x.shape[1]) < last)).any()):
                raise ValueError(
                    "A teacher of blocks was shown masks before the block that it was asked about; "
                    "the objective is not one of block diffusion: leave out --block-size."
                )
        return self.blocks(x, t, **given)


def block_student(network: nn.Module, diffusion: Diffusion) -> Denoiser:
    """A network of blocks as a student, its calls counted."""
    return NetworkDenoiser(Counted(network), diffusion, Subs(), reads_time=None)


def block_teacher(network: nn.Module, diffusion: Diffusion) -> Denoiser:
    """A network that is asked in either reading, its calls counted."""
    return NetworkDenoiser(Counted(network), diffusion, Conditional(), reads_time=None)
