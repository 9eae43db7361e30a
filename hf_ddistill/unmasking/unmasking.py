"""Which masked positions a call of a diffusion language model decides.

B rows, n positions of the blocks in work, K vocabulary. The call has drawn a token at every
position; a rule says which of them stay, all others are masked again for the next call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.linalg import categorical, uniform_noise
from hf_ddistill.shapes import Chooser, Generators, Tokens, Where

#: Log-probabilities of each position, (B, n, K), or of the N masked ones alone, (N, K).
Laws: TypeAlias = Float[Tensor, "B n K"] | Float[Tensor, "N K"]

#: Log-probabilities that are worked on at a time.
SOME = 2**20


@dataclass(frozen=True)
class Draft:
    """What one call says of the positions of one block of each row.

    The laws are those of all n positions, or of the masked ones alone: N rows, in the order of
    `masked.nonzero()`. A rule asks for numbers that it can compare, (B, n) and in float64, and
    never sees which of the two it is.

    Args:
        log_p: (B, n, K) or (N, K), log p(x_0 | x_t), after temperature, top-k and top-p; None
            where nobody has asked for it.
        raw: (B, n, K) or (N, K), the same before them: what confidence is read from; None for a
            rule that reads no logits.
        tokens: (B, n), drawn from `log_p` (or its likeliest, at temperature 0); None for a rule
            that reads none.
        masked: (B, n), the positions that are still open.
        call: number of the call within the block, from 0; one, or one for each row (B,).
        calls: calls that are planned for a block (`static` rules); n for one token a call.
        before: of the shape of `raw`, that of the call before in this block; None at its first, and
            `LOG_ZERO` everywhere in a row that is at its first where others are not.
        progress: share of all tokens asked for that are decided, in [0, 1]; one number, or one for
            each row (B,).
        generator: for rules that draw.
        drawn: (B, n), `raw` of the tokens, where somebody has looked.
        share: what `due` says, where it is known; one number, or one for each row (B,).
        every: whether it is known that all positions are masked.
    """

    log_p: Laws | None
    raw: Laws | None
    tokens: Tokens | None
    masked: Where
    call: int | Tensor
    calls: int
    before: Laws | None = None
    progress: float | Tensor = 0.0
    generator: Generators = None
    drawn: Tensor | None = None
    share: int | Tensor | None = None
    every: bool = False

    @property
    def due(self) -> int | Tensor:
        """(B,), an even share of the open positions for each of the planned calls that are left;
        one number where it is known to be the same in all rows."""
        if self.share is not None:
            return self.share
        left = self.calls - self.call
        left = left.clamp_min(1) if isinstance(left, Tensor) else max(left, 1)
        return even_share(self.masked.sum(1), left)

    @property
    def open(self) -> Where | None:
        """`masked`; None where it is known to be everywhere."""
        return None if self.every else self.masked

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the drawn token; -1 where a position is decided."""
        drawn = self.drawn
        if drawn is None:
            tokens = self.tokens if self.raw.ndim == 3 else self.tokens[self.masked]
            drawn = self.raw.gather(-1, tokens[..., None])[..., 0]
        return self.placed(drawn.double().exp(), -1.0)

    @property
    def entropy(self) -> Tensor:
        """Of `raw`, in nats; infinite where a position is decided."""
        return self.placed(-_expected(self.raw), torch.inf)

    @property
    def margin(self) -> Tensor:
        """The difference in probability of the two likeliest tokens; -1 where a position is
        decided."""
        first, second = self._two.exp().unbind(-1)
        return self.placed(first - second, -1.0)

    @property
    def gap(self) -> Tensor:
        """The difference in log-probability of the two likeliest tokens; 0 where a position is
        decided."""
        first, second = self._two.unbind(-1)
        return self.placed(first - second, 0.0)

    @property
    def change(self) -> Tensor | None:
        """KL(now || before) in nats, infinite where a position is decided; None at the first
        call."""
        if self.before is None:
            return None
        return self.placed(_expected(self.raw, self.before), torch.inf)

    def placed(self, values: Tensor, elsewhere: float) -> Tensor:
        """One number for each law, (B, n) or (N,), as (B, n) with another at decided positions."""
        if self.every and values.ndim == 2:
            return values
        if values.ndim == 2:
            return values.masked_fill(~self.masked, elsewhere)
        rest = values.new_full(self.masked.shape, elsewhere)
        return rest.masked_scatter(self.masked, values)

    @property
    def _two(self) -> Tensor:
        """The two greatest of `raw`, (..., 2), as float64."""
        return self.raw.topk(2, -1).values.double()


def _expected(log_p: Tensor, before: Tensor | None = None) -> Tensor:
    """sum_k p_k (log p_k - before_k) (...), float64, with 0 for no `before`: some laws at a time,
    so that no copy of all is made."""
    both = [log_p] if before is None else [log_p, before]
    size = max(1, SOME // log_p.shape[-1])
    parts = [each.detach().reshape(-1, log_p.shape[-1]).split(size) for each in both]
    sums = [
        (now.exp() * (now - other[0] if other else now)).sum(-1, dtype=torch.float64)
        for now, *other in zip(*parts, strict=True)
    ]
    return torch.cat(sums).view(log_p.shape[:-1])


class Unmasking(Configurable, ABC):
    """A rule that picks, of the masked positions, those whose drawn tokens stay.

    A call decides at least one position of each row that has any: where a rule picks none, the
    most confident one is taken, so that decoding ends. (One that reads no tokens picks at least
    one by itself.)
    """

    #: Whether it goes by `Draft.calls`, the number of calls that are planned for a block.
    planned: ClassVar[bool] = True
    #: Whether positions are drawn one after the other without replacement from the softmax of
    #: `scores(log_p)`: such an order has a law (`set_log_probability`), which can be trained.
    has_law: ClassVar[bool] = False
    #: Whether the positions that it picks hang on the tokens that the call drew there.
    reads_tokens: ClassVar[bool] = True
    #: Whether it reads `Draft.before`, what the call before has said.
    compares: ClassVar[bool] = False
    #: Whether it reads `Draft.progress`.
    reads_progress: ClassVar[bool] = False
    #: Whether it picks at least one of the masked positions by itself.
    picks_one: ClassVar[bool] = False
    #: Whether they hang on what the call says at all; if not, positions can be picked before it.
    reads_logits: ClassVar[bool] = True
    #: Whether a call decides `Draft.due` positions, whatever the logits: then nobody has to ask the
    #: device how many are left.
    even: ClassVar[bool] = False
    #: Whether it draws numbers of its own, one for each position that it is given.
    draws: ClassVar[bool] = False
    unbounded: ClassVar[bool] = True

    @abstractmethod
    def pick(self, draft: Draft) -> Where:
        """(B, n), the positions of `draft` that stay; others than masked ones are ignored."""

    def __call__(self, draft: Draft) -> Where:
        picked = self.pick(draft)
        if not draft.every:
            picked = picked & draft.masked
        if self.picks_one or self.even or not (self.reads_logits and self.reads_tokens):
            return picked
        surest = draft.confidence.argmax(1, keepdim=True)  # the first of equal ones
        none = ~picked.any(1, keepdim=True)
        return picked.scatter(1, surest, picked.gather(1, surest) | none) & draft.masked


def even_share(open_: Any, left: Any) -> Any:  # noqa: ANN401 (a number, a tensor or an array)
    """ceil(open / left): what does not divide goes to the earliest calls."""
    return (open_ + (left - 1)) // left


def largest(score: Tensor, among: Where | None, count: int | Tensor) -> Where:
    """The `count` positions of each row of `among` with the greatest score (all, if fewer); ties go
    to the left.

    Args:
        score: (B, n).
        among: (B, n); None for all of them.
        count: one number, or one for each row (B,).
    """
    if among is not None:
        score = score.masked_fill(~among, -torch.inf)
    if isinstance(count, int) and count == 1:
        first = score.argmax(1, keepdim=True)  # the first of equal ones
        found = torch.zeros_like(score, dtype=torch.bool).scatter_(1, first, True)
    else:
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(1)
        found = rank < (count[:, None] if isinstance(count, Tensor) else count)
    return found if among is None else found & among


def any_positions(among: Where, count: int | Tensor, generator: Generators = None) -> Where:
    """As many positions of each row of `among`, any as likely as another (all, if fewer).

    Args:
        among: (B, n).
        count: one number, or one for each row (B,).
        generator: of the draw.
    """
    if not isinstance(generator, Chooser):
        return largest(uniform_noise(among.shape, generator, among.device), among, count)
    n = among.shape[1]
    subsets = (torch.arange(2**n, device=among.device)[:, None] >> torch.arange(n)) % 2 == 1
    count = torch.as_tensor(count).expand(len(among)).minimum(among.sum(1))
    inside = ~(subsets & ~among[:, None]).any(-1)
    fitting = inside & (subsets.sum(-1) == count[:, None])
    return subsets[categorical(fitting.double(), generator)]
