"""Training steps in plain torch: what `training_step.py` holds the package's objectives against.

The same networks and laws, written by hand with what torch has: the head at masked positions alone,
closed forms under masks, the teacher asked only where x_s is still masked. LogLinear, the mask last
in the vocabulary. Each loss adds one token mean to the next, as in the package.
"""

import torch
from torch.nn.functional import cross_entropy

EPS, EARLIEST = 1e-3, 1e-3


class Nets:
    """Student, teacher and auxiliary, called with x_t, t and the numbers of positions."""

    def __init__(self, student, teacher, auxiliary, mask):
        self.student, self.teacher, self.auxiliary, self.mask = student, teacher, auxiliary, mask

    def logits(self, model, x, t, at, **more):
        logits = model(input_ids=x, timesteps=t.float(), at=at, **more).logits
        logits[:, self.mask] = -torch.inf
        return logits


def left(t):
    return 1 - (1 - EPS) * t


def stratified(rows):
    return (1 - (torch.rand(rows).argsort() + torch.rand(rows)) / rows).clamp_min(EARLIEST)


def masked(x_0, t, mask):
    x_t = torch.where(torch.rand(x_0.shape) < left(t)[:, None], x_0, mask)
    return x_t, (x_t == mask).flatten().nonzero()[:, 0]


def drawn(logits, share):
    """Tokens by the inverse of the cumulative distribution, in float64."""
    cumulative = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    target = (share * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def nelbo(nets, x_0):
    t = stratified(len(x_0))
    x_t, at = masked(x_0, t, nets.mask)
    weight = (1 - EPS) / left(t) / (1 / left(t) - 1)
    losses = cross_entropy(
        nets.logits(nets.student, x_t, t, at), x_0.flatten()[at], reduction="none"
    )
    return (losses * weight[at // x_0.shape[1]].float()).sum() / x_0.numel()


def ecd(nets, x_0):
    t = stratified(len(x_0))
    s = (t - torch.rand(len(t)) * t).clamp_min(EARLIEST / 2).minimum(t * (1 - 1e-6))
    x_t, at = masked(x_0, t, nets.mask)
    logits = nets.logits(nets.student, x_t, t, at)
    # Euler's step: the jumps that the rate at t expects.
    reveal = ((t - s) * (1 - EPS) / left(t) / (1 / left(t) - 1)).clamp_max(1)
    share = torch.rand(len(at), dtype=torch.float64) / reveal[at // x_0.shape[1]]
    now, still = (share < 1).nonzero()[:, 0], (share >= 1).nonzero()[:, 0]
    with torch.no_grad():
        tokens = drawn(logits[now], share[now])
        x_s = x_t.flatten().index_copy(0, at[now], tokens).view(x_t.shape)
        target = nets.logits(nets.teacher, x_s, s, at[still]).softmax(-1)
    log_q = logits.log_softmax(-1)
    open_ = -(target * log_q[still].clamp_min(-1e6)).sum()
    return (open_ - log_q[now].gather(1, tokens[:, None]).sum()) / x_0.numel()


def law_matching(nets, x_0, steps=4, noise_dim=8):
    """Pathwise, each row at a random call of its rollout of 1, 2 or 4 calls; one view of each."""
    (rows, length), mask = x_0.shape, nets.mask
    calls = torch.tensor([1, 2, 4])[torch.randint(3, (rows,))].double()
    stop = (torch.rand(rows) * calls).long()
    x = torch.full_like(x_0, mask)
    for call in range(int(stop.max())):
        on = (stop > call).nonzero()[:, 0]
        t = 1 - call / calls[on]
        before, now = left(t - 1 / calls[on]), left(t)
        share = torch.rand(len(on), length) / ((before - now) / (1 - now))[:, None]
        at = ((x[on] == mask) & (share < 1)).flatten().nonzero()[:, 0]
        noise = torch.randn(len(on), length, noise_dim) * (x[on] == mask)[..., None]
        with torch.no_grad():
            logits = nets.logits(nets.student, x[on], t, at, noise=noise)
            tokens = drawn(logits, share.flatten()[at])
        x[on] = x[on].flatten().index_copy(0, at, tokens).view(len(on), length)
    t, open_ = 1 - stop / calls, x == mask
    at = open_.flatten().nonzero()[:, 0]
    noise = torch.randn(rows, length, noise_dim) * open_[..., None]
    log_pi = nets.logits(nets.student, x, t, at, noise=noise).log_softmax(-1)
    with torch.no_grad():
        tokens = drawn(log_pi, torch.rand(len(at), dtype=torch.float64))
    done = x.flatten().index_copy(0, at, tokens).view(x.shape)
    count = open_.sum(1)
    hidden = (torch.rand(rows) * count).long() + 1
    order = torch.rand(x.shape).masked_fill(~open_, 2.0).argsort(1).argsort(1)
    where = order < hidden[:, None]
    z, view = done.masked_fill(where, mask), where.flatten().nonzero()[:, 0]
    seen = (hidden / length).clamp(0, 1)
    with torch.no_grad():
        log_p = nets.logits(nets.teacher, z, seen, view).log_softmax(-1)
    log_a = nets.logits(nets.auxiliary, z, seen, view).log_softmax(-1)
    weight = (count / hidden).clamp_max(8.0) * (length / count).clamp_max(4.0) ** 0.5
    number = (open_.flatten().cumsum(0) - 1)[view]
    gain = log_pi[number].exp() * (log_p - log_a.detach()).nan_to_num(0.0)
    student = -(gain.sum(-1) * weight[view // length].float()).sum() / x_0.numel()
    of_rows = -log_a.gather(1, done.flatten()[view][:, None])[:, 0] / hidden[view // length]
    return student + of_rows.sum() * length / x_0.numel()


BARE = {"nelbo": nelbo, "ecd": ecd, "law_matching": law_matching}
