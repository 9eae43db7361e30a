"""The law of what a block decoder writes, without drawing.

C clean tokens, L positions in blocks of b; a state of a block is a set of masked positions with the
tokens at the others. The mass of a set is kept as a tensor (P, d_1, ..., d_b) over P finished
prefixes, with d_i = 1 where position i is masked and d_i = C where it is decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.laboratory.space import MAX_STATES, all_sequences, clean_tokens
from hf_ddistill.linalg import categorical
from hf_ddistill.shapes import LOG_ZERO, Tokens
from hf_ddistill.unmasking import Draft, Static, Unmasking

#: The most states of one block, with its prefixes, that a law is computed on.
MAX_BLOCK_STATES = 2**17
#: Rows of one network call.
ROWS = 2**13


@dataclass(frozen=True, eq=False)
class BlockLaw:
    """What a decoder ends in.

    Args:
        law: of each sequence of clean tokens in product order, float64 (C^L,).
        calls: of the network that it takes to write one, in expectation.
    """

    law: Tensor
    calls: float


@dataclass(frozen=True)
class BlockDecoder:
    """A masked denoiser that writes L tokens, b at a time.

    At each call all open tokens of a block are drawn independently from p(x_0^i | x^{<block},
    x_t^block), and `unmasking` says which of them stay.

    Args:
        denoiser: under Absorbing; its network is called with (prefix, block) of as many columns as
            are needed, and `block_size`.
        length: L.
        block_size: b, which divides L.
        unmasking: any rule whose choice depends on the draft alone. One that draws ("random" is
            the exception), or that looks at the call before, has no law on these states.
        calls: planned for each block, for rules that plan; b if None.

    Raises:
        ValueError: if b does not divide L, calls are not 1 .. b, the process is not masked, or
            there are too many sequences or states.
    """

    denoiser: Denoiser
    length: int
    block_size: int
    unmasking: Unmasking = Static("random")
    calls: int | None = None

    def __post_init__(self) -> None:
        b, diffusion = self.block_size, self.denoiser.diffusion
        if not diffusion.reveals or diffusion.process.mask_token_id is None:
            raise ValueError(
                f"Blocks are written from masks, and {diffusion.process.id!r} has none; its law "
                "is `terminal_law`'s."
            )
        if self.length < 1 or b < 1 or self.length % b:
            raise ValueError(f"Blocks of {b} tokens do not divide a length of {self.length}.")
        if not 1 <= self.planned <= b:
            raise ValueError(f"A block of {b} tokens takes 1 to {b} calls, got calls={self.calls}.")
        clean = len(clean_tokens(diffusion))
        if clean**self.length > MAX_STATES:
            raise ValueError(
                f"{clean} clean tokens and length={self.length} make {clean**self.length:,} "
                f"sequences; exact laws go up to {MAX_STATES:,}."
            )
        states = clean ** (self.length - b) * (clean + 1) ** b
        if states > MAX_BLOCK_STATES:
            raise ValueError(
                f"Blocks of {b} tokens have {states:,} states with their prefixes; exact laws go "
                f"up to {MAX_BLOCK_STATES:,}, so take smaller blocks."
            )

    @property
    def planned(self) -> int:
        """Calls planned for each block."""
        return self.block_size if self.calls is None else self.calls


def block_law(decoder: BlockDecoder) -> BlockLaw:
    """The exact law of a block decoder at temperature 1.

    Rules that look at the drawn tokens (their confidence) are asked about every joint draw of a
    block's open tokens, C^open of them; "random" is averaged over its sets of positions. It can be
    differentiated with respect to the denoiser's parameters (a rule's choices have no gradient);
    wrap it in `torch.no_grad` where that is not wanted.

    Raises:
        ValueError: if the rule draws random numbers of its own.
    """
    law, calls = torch.ones(1, dtype=torch.float64), 0.0
    for start in range(0, decoder.length, decoder.block_size):
        law, more = _written(decoder, start, law)
        calls += more
    return BlockLaw(law, calls)


class Memoryless(Draft):
    """A draft that cannot tell of the call before."""

    def __getattribute__(self, name: str) -> object:
        """`before` is refused: how a state came about is not part of it."""
        if name == "before" and "generator" in object.__getattribute__(self, "__dict__"):
            raise ValueError("it looks at the call before, which is no part of a block's state.")
        return object.__getattribute__(self, name)


@torch.no_grad()
def draw_blocks(
    decoder: BlockDecoder, rows: int, generator: torch.Generator | None = None
) -> tuple[Tokens, Tensor]:
    """What the decoder writes, and how: x_0 (rows, L), and the number of the call within its block
    that decided each token, (rows, L) int64.

    Any rule will do here, also one that draws.
    """
    diffusion, b = decoder.denoiser.diffusion, decoder.block_size
    mask = diffusion.process.mask_token_id
    x = torch.full((rows, decoder.length), mask)
    rounds = torch.full_like(x, -1)
    for start in range(0, decoder.length, b):
        before = None
        for call in range(b):
            block = x[:, start : start + b]
            masked = block == mask
            where = torch.zeros_like(x[:, : start + b], dtype=torch.bool)
            where[:, start:] = masked
            log_p = torch.zeros(rows, b, diffusion.vocab_size, dtype=torch.float64)
            log_p[masked] = _asked(decoder, x[:, : start + b], where)
            tokens = torch.where(masked, categorical(log_p.exp(), generator), block)
            progress = float((x != mask).double().mean())
            draft = Draft(
                log_p, log_p, tokens, masked, call, decoder.planned, before, progress, generator
            )
            stays = decoder.unmasking(draft)
            x[:, start : start + b] = torch.where(stays, tokens, block)
            rounds[:, start : start + b][stays] = call
            before = log_p
            if not bool((x[:, start : start + b] == mask).any()):
                break
    return x, rounds


def _written(decoder: BlockDecoder, start: int, law: Tensor) -> tuple[Tensor, float]:
    """The law over the prefixes up to `start` (P,), one block later; and that block's calls."""
    b = decoder.block_size
    everywhere = tuple(range(b))
    masses = {everywhere: law.view(-1, *[1] * b)}
    clean, calls = 0.0, 0.0
    for call in range(b):
        calls += sum(float(mass.detach().sum()) for mass in masses.values())
        later: dict[tuple[int, ...], Tensor] = {}
        predictions = _predictions(decoder, start, list(masses))
        for (open_, mass), log_p in zip(masses.items(), predictions, strict=True):
            for picked, moved in _moves(decoder, (start, call), open_, mass, log_p):
                left = tuple(i for i in open_ if i not in picked)
                later[left] = later[left] + moved if left in later else moved
        clean = clean + later.pop((), 0.0)
        masses = later
        if not masses:
            break
    return clean.flatten(), calls


def _predictions(
    decoder: BlockDecoder, start: int, sets: Sequence[tuple[int, ...]]
) -> list[Tensor]:
    """log p at the open positions of every state of each set, (P, S, open, K)."""
    diffusion, b = decoder.denoiser.diffusion, decoder.block_size
    tokens = clean_tokens(diffusion)
    mask = torch.tensor([diffusion.process.mask_token_id])
    prefixes = all_sequences(tokens, start) if start else torch.empty(1, 0, dtype=torch.int64)
    rows, wheres, shapes = [], [], []
    for open_ in sets:
        choices = [mask if i in open_ else tokens for i in range(b)]
        block = torch.cartesian_prod(*choices).reshape(-1, b)
        x = torch.cat(
            [prefixes.repeat_interleave(len(block), 0), block.repeat(len(prefixes), 1)], 1
        )
        where = torch.zeros_like(x, dtype=torch.bool)
        where[:, [start + i for i in open_]] = True
        rows.append(x)
        wheres.append(where)
        shapes.append((len(prefixes), len(block), len(open_)))
    log_p = _asked(decoder, torch.cat(rows), torch.cat(wheres))
    parts = log_p.split([math.prod(shape) for shape in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def _asked(decoder: BlockDecoder, x: Tokens, where: Tensor) -> Tensor:
    asked = [
        decoder.denoiser.at(some, None, there, block_size=decoder.block_size).log_conditional[:, 0]
        for some, there in zip(x.split(ROWS), where.split(ROWS), strict=True)
    ]
    log_p = torch.cat(asked).double()
    if not bool(torch.isfinite(log_p).all()):
        raise ValueError("The denoiser's log-probabilities hold NaN or infinity.")
    return log_p.log_softmax(-1)


def _moves(
    decoder: BlockDecoder,
    place: tuple[int, int],
    open_: tuple[int, ...],
    mass: Tensor,
    log_p: Tensor,
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Which positions a call decides, and the mass that goes there."""
    tokens = clean_tokens(decoder.denoiser.diffusion)
    own = {i: _own(log_p[:, :, n, tokens].exp(), mass, i) for n, i in enumerate(open_)}
    if decoder.unmasking == Static("random"):
        count = -(-len(open_) // max(decoder.planned - place[1], 1))
        sets = list(combinations(open_, count))
        for picked in sets:
            yield picked, mass / len(sets) * math.prod(own[i] for i in picked)
        return
    weight = mass * math.prod(own.values())
    picks = _picks(decoder, place, open_, log_p)
    codes = (picks * 2 ** torch.arange(decoder.block_size)).sum(1).view_as(weight)
    for code in codes.unique().tolist():
        picked = tuple(i for i in open_ if code >> i & 1)
        dropped = [1 + i for i in open_ if i not in picked]
        moved = torch.where(codes == code, weight, torch.zeros_like(weight))
        yield picked, moved.sum(dropped, keepdim=True) if dropped else moved


def _own(p: Tensor, mass: Tensor, position: int) -> Tensor:
    """p(x^i | state) (P, S, C) with the token of position i in the place of that position."""
    return p.reshape(*mass.shape, -1).transpose(1 + position, -1).squeeze(-1)


def _picks(
    decoder: BlockDecoder, place: tuple[int, int], open_: tuple[int, ...], log_p: Tensor
) -> Tensor:
    """The rule's choice at every state and joint draw, bool (P * C^b, b)."""
    (start, call), b = place, decoder.block_size
    tokens = clean_tokens(decoder.denoiser.diffusion)
    prefixes = log_p.shape[0]
    shape = [1 if i in open_ else len(tokens) for i in range(b)]
    raw = log_p.detach().new_full((*log_p.shape[:2], b, log_p.shape[-1]), LOG_ZERO)
    raw[:, :, list(open_)] = log_p.detach()
    raw = raw.view(prefixes, *shape, b, -1)
    raw = raw.expand(prefixes, *[len(tokens)] * b, b, -1).reshape(-1, b, log_p.shape[-1])
    drawn = all_sequences(tokens, b).reshape(-1, b).repeat(prefixes, 1)
    masked = torch.zeros_like(drawn, dtype=torch.bool)
    masked[:, list(open_)] = True
    progress = (start + b - len(open_)) / decoder.length
    # No generators: a rule that draws is told that it has none.
    draft = (Memoryless if call else Draft)(
        raw, raw, drawn, masked, call, decoder.planned, None, progress, []
    )
    try:
        return decoder.unmasking(draft)
    except ValueError as error:
        raise ValueError(
            f"The rule {decoder.unmasking.id!r} cannot be followed exactly: {error}"
        ) from error
