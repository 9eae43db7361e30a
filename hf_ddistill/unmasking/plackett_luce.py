"""A random order whose law is known, so that it can be trained.

s_i scores of the open positions of a block; a call decides n of them, drawn one after the other
without replacement from softmax(s) of those that are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.linalg import categorical, uniform_noise
from hf_ddistill.shapes import Chooser, Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking, largest

#: Step and range of the integral over the logarithm of time.
STEP, START, END = 0.3, -26.0, 4.0


@dataclass(frozen=True)
class PlackettLuce(Unmasking):
    """An even share of a block's masks at each planned call, drawn by how sure the network is:
    s_i = max_k p(x_0^i = k | x_t) / temperature.

    DCoLT draws the order from a head of its own; here the network's confidence is the score, so
    that `outcome_reward` trains the order without one. The score is that of the likeliest token and
    not of the drawn one: the law of the positions must not depend on drafts that are thrown away.

    On characters, rewarded for known words at two a call, `outcome_reward` takes their share by
    confidence from .35 to .45 with the order trained and to .62 without; the order's student is the
    nearer one to the language model (nll 3.26 for 3.77; `docs/results/characters.md`).

    Args:
        temperature: above 0; at 0.05 nearly the surest first, at 10 nearly any.
    """

    temperature: float = 0.1
    has_law: ClassVar[bool] = True
    even: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    id: ClassVar[str] = "plackett_luce"
    reads_tokens: ClassVar[bool] = False
    citation: ClassVar[str] = (
        "Huang et al., Reinforcing the Diffusion Chain of Lateral Thought with Diffusion Language "
        "Models, 2025, arXiv:2505.10446"
    )

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}.")

    def pick(self, draft: Draft) -> Where:
        scores = draft.placed(self.scores(draft.raw), 0.0)
        if isinstance(draft.generator, Chooser):
            return _in_turn(scores, draft.masked, draft.due, draft.generator)
        # Gumbel noise: the n greatest sums are n draws without replacement, by one number each.
        noise = uniform_noise(scores.shape, draft.generator, scores.device).clamp_min(1e-300)
        keys = scores - (-noise.log()).log()
        return largest(keys, draft.open, draft.due)

    def scores(self, log_p: Tensor) -> Tensor:
        """s of each position, float64 (...), from log p(x_0 | x_t) (..., K)."""
        return log_p.amax(-1).double().exp() / self.temperature


def _in_turn(scores: Tensor, among: Where, count: int | Tensor, generator: Chooser) -> Where:
    """`count` positions of each row of `among`, drawn one after the other from the softmax of those
    that are left: where draws are enumerated."""
    picked, count = torch.zeros_like(among), torch.as_tensor(count).expand(len(among))
    for number in range(int(count.max())):
        left = among & ~picked
        drawing = (count > number)[:, None] & left.any(1, keepdim=True)
        law = scores.masked_fill(~left, -torch.inf).softmax(-1)
        nothing = torch.zeros_like(law).index_fill(1, torch.zeros(1, dtype=torch.int64), 1.0)
        place = categorical(torch.where(drawing, law, nothing), generator)
        picked = picked.scatter(1, place[:, None], picked.gather(1, place[:, None]) | drawing)
    return picked


def set_log_probability(scores: Tensor, picked: Tensor, among: Tensor) -> Tensor:
    """log-probability (...) that the first draws are the set `picked`, in whatever order.

    With a race of exponential clocks of rates w = exp(s), W that of all which are not picked:

        P = integral over t of prod_(i picked) (1 - exp(-w_i t)) W exp(-W t)

    by the trapezoidal rule in log t, with an error in log P below 1e-8 at the same cost for
    every size of the set. Gradients flow to the scores.

    References: Kool, van Hoof, Welling, Estimating Gradients for Discrete Random Variables by
    Sampling without Replacement, 2020, arXiv:2002.06043.

    Args:
        scores: (..., n); what stands outside `among` is not looked at.
        picked: (..., n) bool, a part of `among`.
        among: (..., n) bool, the positions that could be drawn.
    """
    rest, picked = among & ~picked, picked & among
    # log 1 where either set is empty: what is certain has no gradient.
    sure = ~(rest.any(-1) & picked.any(-1))
    log_w = torch.where(among, scores.double(), torch.zeros_like(scores, dtype=torch.float64))
    log_rest = log_w.masked_fill(~rest | sure[..., None], -torch.inf)
    total = torch.where(sure[..., None], log_w.new_zeros(()), log_rest).logsumexp(-1)
    log_time = torch.arange(START, END, STEP, dtype=torch.float64, device=scores.device)
    rates = (log_w - total[..., None]).clamp(-600.0, 600.0)
    passed = (rates[..., None] + log_time).clamp(-700.0, 60.0).exp()
    # log(1 - exp(-x)): of small x by expm1, which loses nothing.
    within = (-torch.expm1(-passed)).clamp_min(1e-300).log().masked_fill(~picked[..., None], 0.0)
    terms = within.sum(-2) + log_time - log_time.exp()
    value = terms.logsumexp(-1) + torch.tensor(STEP, dtype=torch.float64).log()
    return torch.where(sure, torch.zeros_like(value), value)
