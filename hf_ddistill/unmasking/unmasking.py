"""Which masked positions a call of a diffusion language model decides.

B rows, n positions of the blocks in work, K vocabulary. The call has drawn a token at every
position; a rule says which of them stay, all others are masked again for the next call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.shapes import Generators, LogProbs, Tokens, Where


@dataclass(frozen=True)
class Draft:
    """What one call says of the positions of one block of each row.

    Args:
        log_p: (B, n, K), log p(x_0 | x_t), after temperature, top-k and top-p; at temperature 0,
            where one token has it all, it may be `raw`.
        raw: (B, n, K), the same before them: what confidence is read from.
        tokens: (B, n), drawn from `log_p` (or its likeliest, at temperature 0).
        masked: (B, n), the positions that are still open.
        call: number of the call within the block, from 0; one, or one for each row (B,).
        calls: calls that are planned for a block (`static` rules); n for one token a call.
        before: (B, n, K), `raw` of the call before in this block; None at its first, and `LOG_ZERO`
            everywhere in a row that is at its first where others are not.
        progress: share of all tokens asked for that are decided, in [0, 1]; one number, or one for
            each row (B,).
        generator: for rules that draw.
    """

    log_p: LogProbs
    raw: LogProbs
    tokens: Tokens
    masked: Where
    call: int | Tensor
    calls: int
    before: LogProbs | None = None
    progress: float | Tensor = 0.0
    generator: Generators = None

    @property
    def due(self) -> Tensor:
        """(B,), an even share of the open positions for each of the planned calls that are left."""
        left = self.calls - self.call
        left = left.clamp_min(1) if isinstance(left, Tensor) else max(left, 1)
        return even_share(self.masked.sum(1), left)

    @cached_property
    def confidence(self) -> Tensor:
        """(B, n) float64, the probability of the drawn token; -1 where a position is decided."""
        chosen = self.raw.gather(-1, self.tokens[..., None])[..., 0].double().exp()
        return chosen.masked_fill(~self.masked, -1.0)

    @property
    def entropy(self) -> Tensor:
        """(B, n) float64, of `raw`, in nats."""
        log_p = self.raw.double()
        return -(log_p.exp() * log_p).sum(-1)


class Unmasking(Configurable, ABC):
    """A rule that picks, of the masked positions, those whose drawn tokens stay.

    A call decides at least one position of each row that has any: where a rule picks none, the
    most confident one is taken, so that decoding ends.
    """

    #: Whether it goes by `Draft.calls`, the number of calls that are planned for a block.
    planned: ClassVar[bool] = True
    #: Whether positions are drawn one after the other without replacement from the softmax of
    #: `scores(log_p)`: such an order has a law (`set_log_probability`), which can be trained.
    has_law: ClassVar[bool] = False
    #: Whether the positions that it picks hang on the tokens that the call drew there.
    reads_tokens: ClassVar[bool] = True
    #: Whether a call decides `Draft.due` positions, whatever the logits: then nobody has to ask the
    #: device how many are left.
    even: ClassVar[bool] = False
    #: Whether it draws numbers of its own, one for each position that it is given.
    draws: ClassVar[bool] = False
    #: Whether it looks at `Draft.before`.
    compares: ClassVar[bool] = False

    @abstractmethod
    def pick(self, draft: Draft) -> Where:
        """(B, n), the positions of `draft` that stay; others than masked ones are ignored."""

    def __call__(self, draft: Draft) -> Where:
        picked = self.pick(draft) & draft.masked
        none = ~picked.any(1, keepdim=True)
        return picked | (none & largest(draft.confidence, draft.masked, 1))


def even_share(open_: Any, left: Any) -> Any:  # noqa: ANN401 (a number, a tensor or an array)
    """ceil(open / left): what does not divide goes to the earliest calls."""
    return -(-open_ // left)


def largest(score: Tensor, among: Where, count: int | Tensor) -> Where:
    """The `count` positions of each row of `among` with the greatest score (all, if fewer); ties go
    to the left.

    Args:
        score: (B, n).
        among: (B, n).
        count: one number, or one for each row (B,).
    """
    order = score.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)
    count = count[:, None] if isinstance(count, Tensor) else count
    return (rank < count) & among
