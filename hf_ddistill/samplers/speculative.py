"""Speculative decoding in any order: drafts that a teacher verifies.

sigma a random order of the masked positions, x what is known, d_1, d_2, ... the tokens that are
drafted at sigma_1, sigma_2, ...; L positions in a row, k drafts at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as numbers
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.denoisers.denoiser import condition_of
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical, generators_of, verify_drafts
from hf_ddistill.places import Places
from hf_ddistill.samplers.clock import masked_share, time_of_share
from hf_ddistill.samplers.queued import Queued, filled
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Tokens


@dataclass(frozen=True)
class Speculative(Sampler):
    """Draw x_0 one token at a time in a random order, several of them a call: the law of whole
    sequences is prod_i p_T(x^(sigma_i) | x^(sigma_1) .. x^(sigma_(i-1))), that of the teacher's
    sequential sampling, averaged over sigma; the data's for an exact teacher.

    A round: k tokens are drafted, d_j ~ q_j = p_draft(. | x) at sigma_j, all of one call. The
    teacher is asked for p_j = p_T(. | x, d_1 .. d_(j-1)) at sigma_j, j = 1 .. k + 1, in one call of
    k + 1 rows, since an attention in both directions reads one prefix a row. `verify_drafts` keeps
    d_j with min(1, p_j / q_j) and draws the first that it refuses from (p_j - q_j)_+, so that a
    round gives between 1 and k + 1 tokens, each of the teacher's law, whatever the draft.

    The teacher is the denoiser, and its `draft` drafts: a `Drafted` has a network for that, at one
    call of its own in each round. Any other drafts for itself, without a call: what the verifying
    call says of the k positions behind the last token kept is the next draft.

    A step takes as many rounds as it needs to come down to the masks that ancestral steps leave
    there in expectation. Any number of steps has the same law, and no network is asked for rows
    that are there. `speculate` also counts.

    References: Leviathan et al., 2022, arXiv:2211.17192; Chen et al., 2023, arXiv:2302.01318; in
    any order, with a network that reads all prefixes in one row, Guo, Ermon, Reviving Any-Subset
    Autoregressive Models with Principled Parallel Sampling and Speculative Decoding, 2025,
    arXiv:2504.20456.

    Args:
        lookahead: k.

    Raises:
        ValueError: for a lookahead below 1; from `check`, without masks that reveal.
    """

    lookahead: int = 4
    drafts: ClassVar[bool] = True
    id: ClassVar[str] = "speculative"
    citation: ClassVar[str] = (
        "Guo, Ermon, Reviving Any-Subset Autoregressive Models with Principled Parallel Sampling "
        "and Speculative Decoding, 2025, arXiv:2504.20456"
    )

    def __post_init__(self) -> None:
        check_lookahead(self.lookahead)
        object.__setattr__(self, "_kept", None)

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process has masks that reveal."""
        if not diffusion.reveals:
            raise ValueError(
                "The sampler 'speculative' decides masked positions one after another, as under "
                f"Absorbing, not under {type(diffusion.process).__name__}."
            )

    def begin(self) -> Speculative:
        """A copy that keeps the drafts behind a step for the next one."""
        run = copy.copy(self)
        object.__setattr__(run, "_kept", [])
        return run

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """x_s, by as many rounds as it takes."""
        left = self.left(denoiser.diffusion, x_t, s, t)
        with self._at_work(denoiser, x_t, generator, condition) as work:
            work.go_on(left)
        return work.x

    def left(
        self, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
    ) -> Tensor:
        """The masks that a step leaves in each row at most, (B,)."""
        share = masked_share(diffusion, s) / masked_share(diffusion, t)
        masks = diffusion.undetermined(x_t).sum(1)
        return (masks * share.to(masks.device) + 1e-9).long()

    def round(
        self,
        denoiser: Denoiser,
        x: Tokens,
        left: Tensor,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """x behind one round of a step, in which rows with no more masks than `left` (B,) rest."""
        with self._at_work(denoiser, x, generator, condition) as work:
            work.go_on(left, rounds=1)
        return work.x

    @contextmanager
    def _at_work(
        self, denoiser: Denoiser, x: Tokens, generator: Generators, condition: Mapping[str, Any]
    ) -> Iterator[_Work]:
        """A decoding that goes on with the drafts that are kept, and keeps those that it leaves."""
        work = _Work(denoiser, x, self.lookahead, generator, condition)
        if self._kept:
            work.drafts = Queued(*self._kept)
        yield work
        if self._kept is not None:
            self._kept[:] = vars(work.drafts).values()


@dataclass(frozen=True)
class Speculated:
    """What was drawn, and what it took; all but the first are (B,) int64.

    Args:
        x_0: (B, L).
        tokens: that were drawn.
        calls: of the teacher in which the row took part.
        rows: states of it that the teacher was shown in them, lookahead + 1 a call at most.
        drafted: tokens that were verified, of which `tokens - calls` were kept.
    """

    x_0: Tokens
    tokens: Tensor
    calls: Tensor
    rows: Tensor
    drafted: Tensor

    @property
    def tokens_per_call(self) -> Tensor:
        """(B,), tokens by calls of the teacher; 0 where there was none."""
        return self.tokens / self.calls.clamp_min(1)


@torch.no_grad()
def speculate(
    denoiser: Denoiser,
    x: Tokens,
    lookahead: int = 4,
    generator: Generators = None,
    **condition: Any,
) -> Speculated:
    """Decide every mask of x as `Speculative` does, and count.

    Args:
        denoiser: the teacher, see `Speculative`.
        x: (B, L), masks where a token is to be drawn.
        lookahead: k.
        generator: one, or one for each row.
        **condition: inputs of teacher and draft, such as `class_labels`.
    """
    check_lookahead(lookahead)
    Speculative(lookahead).check(denoiser.diffusion)
    work = _Work(denoiser, x, lookahead, generator, condition)
    work.go_on(torch.zeros_like(x[:, 0]))
    tokens, calls, rows = work.counts.unbind(1)
    return Speculated(work.x, tokens, calls, rows, rows - calls)


def check_lookahead(lookahead: int) -> None:
    """Raise unless one token at least is drafted."""
    if isinstance(lookahead, bool) or not isinstance(lookahead, Integral) or lookahead < 1:
        raise ValueError(f"lookahead, the tokens of a draft, must be at least 1, got {lookahead}.")


class _Work:
    """The state of a decoding; `counts` (B, 3) are tokens, calls and rows of the teacher."""

    def __init__(
        self,
        denoiser: Denoiser,
        x: Tokens,
        lookahead: int,
        generator: Generators,
        condition: Mapping[str, Any],
    ) -> None:
        self.teacher, self.x, self.generator, self.condition = denoiser, x, generator, condition
        self.drafter = None if denoiser.draft is denoiser else denoiser.draft
        self.rows, self.length = x.shape
        self.k = max(min(lookahead, self.length - 1), 0)
        # A draft of its own reads k positions behind each of the k + 1 that are verified.
        self.seen = 1 if self.drafter else self.k + 1
        queue = x.new_full((self.rows, self.k + self.seen), self.length)
        size = (self.rows, self.k, denoiser.diffusion.vocab_size)
        laws = torch.zeros(size, dtype=torch.float64, device=x.device)
        self.drafts = Queued(queue, laws, x.new_zeros(self.rows))
        self.counts = x.new_zeros(self.rows, 3)

    def go_on(self, left: Tensor, rounds: int | None = None) -> None:
        """Rounds, so many at most, until no row has more masks than its entry of `left` (B,)."""
        self.drafts = self.drafts.fitting(self._masked(self.x))
        for _ in numbers() if rounds is None else range(rounds):
            rows = (self._masked(self.x).sum(1) > left).nonzero()[:, 0]
            if not len(rows):
                return
            self._round(rows)

    def _masked(self, x: Tokens) -> Tensor:
        return self.teacher.diffusion.undetermined(x)

    def _round(self, rows: Tensor) -> None:
        """One call of the teacher for some rows, and the tokens that it lets stand."""
        x, generator, drafts = self.x[rows], self._generators(rows), self.drafts.of(rows)
        masked, own = self._masked(x), torch.arange(len(rows), device=x.device)
        queue = filled(drafts.queue, masked, generator)
        laws, ready = drafts.laws, drafts.ready
        if self.drafter:
            laws, ready = self._drafted(rows, x, queue)
        count = ready.minimum(masked.sum(1) - 1)
        number = torch.arange(self.k + 1, device=x.device)
        # A row with fewer drafts draws as many numbers as any other.
        counts = (number[:-1] < count[:, None])[..., None]
        point = torch.zeros_like(laws).index_fill(-1, laws.new_zeros(1, dtype=torch.int64), 1.0)
        tokens = categorical(laws.where(counts, point), generator)
        states = [pad(x, (0, 1))]
        for place, token in zip(queue.T, tokens.T, strict=False):
            states.append(states[-1].scatter(1, place[:, None], token[:, None]))
        states = torch.stack(states, 1)[..., :-1]
        shown, asked = number <= count[:, None], queue.unfold(1, self.seen, 1)
        said, index = self._ask(
            self.teacher, rows[shown.nonzero()[:, 0]], states[shown], asked[shown]
        )
        place = index.new_zeros(asked.shape)
        place[shown] = index
        kept, token = verify_drafts(tokens, laws, said[place[..., 0]], count, generator)
        last = queue.gather(1, kept[:, None])
        self.x = self.x.index_copy(0, rows, states[own, kept].scatter(1, last, token[:, None]))
        if not self.drafter:
            laws, known = said[place[own, kept, 1:]], asked[own, kept, 1:]
            ready = (known < self.length).sum(1)
        onward = number.new_tensor(range(queue.shape[1])) + kept[:, None] + 1
        queue = pad(queue, (0, self.k + 1), value=self.length).gather(1, onward)
        self.drafts = self.drafts.put(rows, Queued(queue, laws, ready))
        self.counts[rows] += torch.stack([kept + 1, torch.ones_like(kept), count + 1], 1)

    def _drafted(self, rows: Tensor, x: Tokens, queue: Tensor) -> tuple[Tensor, Tensor]:
        """q at the first k positions of the queue (n, k, K), and how many there are."""
        asked = queue[:, : self.k]
        said, index = self._ask(self.drafter, rows, x, asked)
        return said[index], (asked < self.length).sum(1)

    def _ask(
        self, denoiser: Denoiser, rows: Tensor, x: Tokens, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a denoiser says of states of some rows.

        Args:
            denoiser: teacher or draft.
            rows: (N,), the rows that the states are of.
            x: (N, L).
            asked: (N, A), positions; L for none.

        Returns:
            (M, K), probabilities at all positions asked for; and (N, A), which of them is whose.
        """
        valid = asked < self.length
        index = (valid.flatten().cumsum(0) - 1).view_as(asked).clamp_min(0)
        first = self.length * torch.arange(len(x), device=x.device)[:, None]
        places = Places((first + asked)[valid], (len(x), self.length))
        t = time_of_share(denoiser.diffusion, self._masked(x).sum(1) / self.length)
        given = condition_of(self.condition, rows, self.rows)
        fresh = denoiser.fresh_noise(x, self._generators(rows))
        said = denoiser.at(x, t, places, **{**fresh, **given}).log_conditional[:, 0].double().exp()
        return said / said.sum(-1, keepdim=True), index

    def _generators(self, rows: Tensor) -> Generators:
        return generators_of(self.generator, rows)
