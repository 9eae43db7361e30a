"""Training steps of block diffusion in plain torch, from the formulas of their papers: what
`training_step.py` holds the package's block objectives against.

x_0 (B, L) was decoded in blocks of b tokens, `rounds` (B, L) the call that decided each. The head
is asked at the positions of the loss alone; each loss is the package's, term by term.
"""

import torch
from bare_training import drawn
from torch.nn.functional import cross_entropy, logsigmoid


class BlockNets:
    """Student, teacher and auxiliary, called with x and the numbers of positions."""

    def __init__(self, student, teacher, auxiliary, mask):
        self.student, self.teacher, self.auxiliary, self.mask = student, teacher, auxiliary, mask

    def log_p(self, model, x, at, **more):
        logits = model(input_ids=x, at=at, **more).logits
        logits[:, self.mask] = -1e6
        return logits.log_softmax(-1)

    def asked(self, model, x, at, **more):
        with torch.no_grad():
            return self.log_p(model, x, at, **more)


def numbers(where):
    return where.flatten().nonzero()[:, 0]


def any_call(batch):
    """A call of each block, at each of its positions."""
    calls = batch.rounds.unflatten(1, (-1, batch.size)).amax(-1) + 1
    return (torch.rand(calls.shape) * calls).long().repeat_interleave(batch.size, 1), calls


def some_of(within, size):
    """n of the tokens of each block, n uniform, and N / n at each."""
    blocks = within.unflatten(1, (-1, size))
    total = blocks.sum(-1, keepdim=True)
    count = (torch.rand(total.shape) * total).long() + 1
    order = torch.rand(blocks.shape).masked_fill(~blocks, 2.0).argsort(-1).argsort(-1)
    where = (order < count).flatten(1)
    return where, (total / count).expand(blocks.shape).flatten(1)


def taken(log_p, tokens):
    return log_p.gather(1, tokens[:, None])[:, 0]


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def of_rows(values, at, x):
    """Sums by row."""
    return values.new_zeros(len(x)).index_add(0, at // x.shape[1], values)


def opdlm(nets, batch):
    call, _ = any_call(batch)
    where, x = batch.rounds >= call, batch.x_0
    at = numbers(where)
    log_q = nets.log_p(nets.student, x.masked_fill(where, nets.mask), at, clean_ids=x)
    log_p = nets.asked(nets.teacher, x, at, causal=True)
    return (of_rows(kl(log_p, log_q), at, x) / where.sum(1)).mean()


def bd3lm(nets, batch):
    x = batch.x_0
    where, weight = some_of(torch.ones_like(x, dtype=torch.bool), batch.size)
    at, x_t = numbers(where), x.masked_fill(where, nets.mask)
    logits = nets.student(input_ids=x_t, at=at, clean_ids=x).logits
    logits[:, nets.mask] = -torch.inf
    losses = cross_entropy(logits, x.flatten()[at], reduction="none")
    return (losses * weight.flatten()[at]).sum() / x.numel()


def block_acceptance(nets, batch):
    x, size = batch.x_0, batch.size
    known = (torch.rand(len(x), x.shape[1] // size, 1) * size).long()
    where = (torch.arange(size) >= known).flatten(1)
    at = numbers(where)
    log_q = nets.log_p(nets.student, x.masked_fill(where, nets.mask), at, clean_ids=x)
    log_p, tokens = nets.asked(nets.teacher, x, at, causal=True), x.flatten()[at]
    overlap = torch.minimum(log_p.exp(), log_q.exp()).sum(-1)
    ratio = (taken(log_q, tokens) - taken(log_p, tokens)).clamp_max(0).exp()
    grids = [
        torch.full((x.numel(),), fill).index_copy(0, at, v)
        for fill, v in ((0.0, overlap), (1.0, ratio))
    ]
    overlap, ratio = (grid.view(len(x), -1, size) for grid in grids)
    before = torch.cat([torch.ones_like(ratio[..., :1]), ratio.cumprod(-1)[..., :-1]], -1)
    share = (before * overlap).sum(-1) / (size - known[..., 0])
    return (1 - share).mean()


def block_law_matching(nets, batch, draws=2):
    x, size = batch.x_0, batch.size
    x_t, at = torch.full_like(x, nets.mask), torch.arange(x.numel())
    more = {"clean_ids": x, "block_size": size}
    log_pi = nets.log_p(nets.student, x_t, at, **more)
    seen = []
    for _ in range(draws):
        with torch.no_grad():
            y = drawn(log_pi, torch.rand(len(at), dtype=torch.float64)).view(x.shape)
        log_p = nets.asked(nets.teacher, y, at, causal=True, **more)
        log_a = nets.log_p(nets.auxiliary, y, at, causal=True, **more)
        each = (taken(log_p, y.flatten()) - taken(log_a, y.flatten())).detach().view(-1, size)
        later = (each.sum(-1, keepdim=True) - each.cumsum(-1)).flatten()
        seen.append((y.flatten(), log_p, log_a, later))
    mean = torch.stack([one[-1] for one in seen]).mean(0)
    loss = 0.0
    for y, log_p, log_a, later in seen:
        alike = (log_pi.exp() * (log_p - log_a.detach())).sum()
        advantage = (later - mean) * draws / (draws - 1)
        loss = loss - alike - (advantage * taken(log_pi, y)).sum() - taken(log_a, y).sum()
    return loss / draws / len(at)


def causal_law_matching(nets, batch):
    x, size, rounds = batch.x_0, batch.size, batch.rounds
    at = torch.arange(x.numel())
    log_a = taken(nets.log_p(nets.auxiliary, x, at, causal=True), x.flatten())
    with torch.no_grad():
        log_p = taken(nets.asked(nets.teacher, x, at, causal=True), x.flatten())
        each = (log_p - log_a).view(len(x), -1, size)
        calls = rounds.view(each.shape)
        later = torch.arange(size) >= torch.arange(size)[:, None]
        later = later | (calls.cummax(-1).values[..., None, :] > calls[..., None])
        total = each.sum(-1)
        after = total.flip(1).cumsum(1).flip(1) - total
        credit = ((later * each[..., None, :]).sum(-1) + after[..., None]).flatten(1)
        credit = (credit - (credit.sum(0) - credit) / (len(x) - 1)).flatten()
    loss = -log_a.sum()
    for call in range(int(rounds.max()) + 1):
        here = numbers(rounds == call)
        x_t = x.masked_fill(rounds >= call, nets.mask)
        log_q = nets.log_p(nets.student, x_t, here, clean_ids=x, block_size=size)
        loss = loss - (credit[here] * taken(log_q, x.flatten()[here])).sum()
    return loss / x.numel()


def outcome_reward(nets, batch, weight=0.04):
    x, rounds = batch.x_0, batch.rounds
    groups = batch.reward.view(-1, 2)
    spread = groups.std(1, correction=0, keepdim=True) + 1e-4
    advantage = ((groups - groups.mean(1, keepdim=True)) / spread).flatten()
    loss, more = 0.0, {"clean_ids": x, "block_size": batch.size}
    for call in range(int(rounds.max()) + 1):
        at, x_t = numbers(rounds == call), x.masked_fill(rounds >= call, nets.mask)
        log_q = nets.log_p(nets.student, x_t, at, **more)
        log_p = nets.asked(nets.teacher, x_t, at, **more)
        gained = advantage[at // x.shape[1]] * taken(log_q, x.flatten()[at])
        loss = loss + weight * kl(log_q, log_p).sum() - gained.sum()
    return loss / x.numel()


def d2f(nets, batch):
    x, size = batch.x_0, batch.size
    shares = 0.3 + 0.4 * torch.rand(len(x), x.shape[1] // size).sort(1).values
    shares = shares.repeat_interleave(size, 1)
    where = torch.rand(x.shape) < shares
    at, x_t = numbers(where), x.masked_fill(where, nets.mask)
    log_p = nets.asked(nets.teacher, x_t, at, block_size=x.shape[1])
    log_q = nets.log_p(nets.student, x_t, at, block_size=size)
    return (kl(log_p, log_q) / shares.flatten()[at]).sum() / x.numel() / 0.5


def cdlm(nets, batch):
    x, size, rounds = batch.x_0, batch.size, batch.rounds
    block, blocks = torch.arange(x.shape[1]) // size, x.shape[1] // size
    chosen = torch.randint(blocks, (len(x), 1))
    active, later = block == chosen, block > chosen
    call, calls = any_call(batch)
    calls = calls.repeat_interleave(size, 1)
    at = numbers((active & (rounds >= call)) | later)
    x_t = x.masked_fill((active & (rounds >= call)) | later, nets.mask)
    log_q = nets.log_p(nets.student, x_t, at, block_size=size)
    index = torch.full((x.numel(),), -1).index_copy(0, at, torch.arange(len(at)))
    other = call + (torch.rand(len(x), blocks).repeat_interleave(size, 1) * (calls - call)).long()
    here = numbers(active & (rounds == other))
    state = x.masked_fill((active & (rounds >= other)) | later, nets.mask)
    log_p = nets.asked(nets.teacher, state, here)
    weight = (calls - call).flatten()[here]
    expected = ((rounds + 1) / calls).sum(1) / blocks
    loss = (of_rows(weight * kl(log_p, log_q[index[here]]), here, x) / expected).mean()
    behind = numbers(later)
    ahead = nets.asked(nets.student, x.masked_fill(later, nets.mask), behind, block_size=size)
    distance = of_rows(kl(ahead, log_q[index[behind]]), behind, x)
    loss = loss + 0.5 * (distance / ((blocks - 1) * size / 2)).mean()
    where, weight = some_of(torch.ones_like(later), size)
    at, more = numbers(where), {"clean_ids": x, "block_size": size}
    log_q = nets.log_p(nets.student, x.masked_fill(where, nets.mask), at, **more)
    likelihood = (weight.flatten()[at] * taken(log_q, x.flatten()[at])).sum()
    return loss - 0.01 * likelihood / x.numel()


def dparallel(nets, batch):
    x, size = batch.x_0, batch.size
    block, blocks = torch.arange(x.shape[1]) // size, x.shape[1] // size
    chosen = torch.randint(blocks, (len(x), 1))
    active, later = (block == chosen).expand(x.shape), block > chosen
    first, loss = active & (torch.rand(x.shape) < 0.5), 0.0
    for where in (first, active & ~first):
        at, x_t = numbers(where), x.masked_fill(where | later, nets.mask)
        log_q, tokens = nets.log_p(nets.student, x_t, at), x.flatten()[at]
        sharper = (log_q / 0.5).log_softmax(-1)
        entropy, right = -(sharper.exp() * sharper).sum(-1), log_q.argmax(-1) == tokens
        entropy = of_rows(entropy * right, at, x) / of_rows(right.float(), at, x).clamp_min(1)
        loss = loss - taken(log_q, tokens).sum() * blocks / x.numel() / 0.5 + 2 * entropy.mean()
    return loss / 2


def pseudo_trajectory(nets, batch, window=24, share=0.4):
    x, length = batch.x_0, batch.x_0.shape[1]
    place = torch.arange(length)
    start = torch.randint(-(-length // window), (len(x), 1)) * window
    inside, later = (place >= start) & (place < start + window), place >= start + window
    when = (place // batch.size * batch.size + batch.rounds) * length + place
    order = when.masked_fill(~inside, -1).argsort(1, descending=True).argsort(1)
    where = inside & (order < (inside.sum(1, keepdim=True) * share).ceil())
    at, x_t = numbers(where), x.masked_fill(where | later, nets.mask)
    log_q = nets.log_p(nets.student, x_t, at)
    return -(of_rows(taken(log_q, x.flatten()[at]), at, x) / where.sum(1)).mean()


def t3d(nets, batch):
    x, size = batch.x_0, batch.size
    rank = batch.rounds.unflatten(1, (-1, size)).argsort(dim=-1, stable=True).argsort(-1).flatten(1)
    ratios = torch.tensor([1.0, 0.75, 0.5, 0.25])
    ratio = ratios[torch.multinomial(ratios**8, len(x), True)][:, None]
    where = rank < (ratio * size).floor()
    at, x_t = numbers(where), x.masked_fill(where, nets.mask)
    more = {"clean_ids": x, "block_size": size}
    log_q = nets.log_p(nets.student, x_t, at, **more)
    log_p = nets.asked(nets.teacher, x_t, at, **more)
    count = where.sum(1)
    gaps = []
    for tokens in (x.flatten()[at], log_p.argmax(-1)):
        gaps.append(of_rows(taken(log_q, tokens) - taken(log_p, tokens), at, x) / count)
    loss = -logsigmoid(0.1 * gaps[0]) - 0.5 * logsigmoid(-0.1 * gaps[1])
    losses, within = -taken(log_q, x.flatten()[at]), rank.flatten()[at]
    path, steps = of_rows(losses, at, x) / count, (where * rank).amax(1) // 4
    for number in range(1, int(steps.max()) + 1):
        early = within < 4 * number
        mean = of_rows(losses * early, at, x) / of_rows(early.float(), at, x).clamp_min(1)
        path = path + mean * (number <= steps)
    return (loss + 0.2 * path / (steps + 1)).mean()


BARE_BLOCKS = {
    "bd3lm": bd3lm,
    "opdlm": opdlm,
    "block_law_matching": block_law_matching,
    "block_acceptance": block_acceptance,
    "causal_law_matching": causal_law_matching,
    "outcome_reward": outcome_reward,
    "d2f": d2f,
    "cdlm": cdlm,
    "dparallel": dparallel,
    "pseudo_trajectory": pseudo_trajectory,
    "t3d": t3d,
}
