"""The loops that `sampling.py` compares: ours, and others' updates written from their formulas.

Each takes (model, x, steps) and makes one call a step, the last of which draws x_0; alpha = 1 - t.
`float` is the dtype of the others' probabilities and Gumbel noise: their code takes float64 for
MDLM since it was shown that float32 lowers the temperature, and float32 elsewhere.
"""

import functools
from dataclasses import dataclass

import torch
from diffusers import BlockRefinementScheduler, DiscreteDDIMScheduler

from hf_ddistill import as_denoiser
from hf_ddistill.samplers import Ancestral, Canvas


def gumbel_draw(probs):
    """argmax of probs / Exp(1), as SEDD, MDLM and Duo draw."""
    noise = 1e-10 - (torch.rand_like(probs) + 1e-10).log()
    return (probs / noise).argmax(-1)


@dataclass(frozen=True)
class Steps:
    """The steps, of `number` from noise to data, that are made: all, or `some` spread over them."""

    number: int
    some: int

    def indices(self):
        return [i * self.number // self.some for i in range(self.some)]

    def __iter__(self):
        """(t, s) of each."""
        return iter([(1 - i / self.number, 1 - (i + 1) / self.number) for i in self.indices()])


def conditional(model, x, float_, mask=None):
    """log p(x_0 | x_t) at every position, without the mask; given tokens carried over (MDLM)."""
    logits = model(input_ids=x).logits.to(float_)
    if mask is None:
        return logits.log_softmax(-1)
    logits[..., mask] = -1e6
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    given = x != mask
    log_p[given] = -1e6
    log_p[given, x[given]] = 0
    return log_p


def bare(model, x, steps):
    """The network's forward pass and nothing else."""
    for _ in steps:
        model(input_ids=x)


@functools.cache
def denoiser_of(model):
    """Opened once, as in a pipeline: its weights are looked at there."""
    return as_denoiser(model)


def ours(model, x, steps):
    """`Sampler.sample`, what the pipeline runs; always from noise to data."""
    canvas = Canvas.empty(x.shape, x.device)
    return Ancestral().sample(denoiser_of(model), canvas, steps.number)


def mdlm(model, x, steps, float_=torch.float64, cached=False):
    """MDLM's update (Sahoo et al., 2024): q(x_s | x_t) by Gumbel; `cached` keeps the network's
    output while nothing was revealed (its ddpm_cache)."""
    mask, p = model.config.mask_token_id, None
    for t, s in steps:
        if p is None or not cached:
            p = conditional(model, x, float_, mask).exp()
        q = p * (t - s)
        q[..., mask] = s
        new = torch.where(x == mask, gumbel_draw(q), x)
        p = p if cached and torch.equal(new, x) else None
        x = new
    return x


def sedd(model, x, steps, float_=torch.float32):
    """SEDD's analytic (Tweedie) step for masks (Lou et al., 2024, Theorem 4.2): staggered score
    times the column of the transition."""
    mask = model.config.mask_token_id
    for t, s in steps:
        score = conditional(model, x, float_, mask).exp() * ((1 - t) / t if t < 1 else 1e-3)
        score[..., mask] = 1
        alpha = (1 - t if t < 1 else 1e-3) / (1 - s)  # e^-(sigma_t - sigma_s)
        score = torch.where((x == mask)[..., None], score, one_hot(x, score))
        extra = (1 - 1 / alpha) * score.sum(-1)
        score = score / alpha
        score[..., mask] += extra
        column = alpha * one_hot(x, score)
        column = column + torch.where(x == mask, 1 - alpha, 0.0)[..., None]
        new = gumbel_draw((score * column).clamp_min(0))
        x = torch.where(x == mask, new, x)
    return x


def one_hot(x, like):
    return torch.zeros_like(like).scatter_(-1, x[..., None], 1.0)


def duo(model, x, steps, float_=torch.float64):
    """Duo's ancestral step for uniform noise (Sahoo et al., 2025; Schiff et al., 2024, Eq. 14)."""
    size = model.config.vocab_size
    for t, s in steps:
        p = conditional(model, x, float_).exp()
        if s == 0:
            return gumbel_draw(p)
        alpha_t, alpha_s = 1 - t, 1 - s
        alpha_ts = alpha_t / alpha_s
        own = one_hot(x, p)
        q = size * alpha_t * own * p + (alpha_ts - alpha_t) * own + (alpha_s - alpha_t) * p
        q = q + (1 - alpha_ts) * (1 - alpha_s) / size
        q = q / (size * alpha_t * p.gather(-1, x[..., None]) + 1 - alpha_t)
        x = gumbel_draw(q)
    return x


def ddim(model, x, steps):
    """diffusers' DiscreteDDIMScheduler, temperature 1."""
    scheduler = DiscreteDDIMScheduler()
    scheduler.set_timesteps(steps.number)
    for i in steps.indices():
        x = scheduler.step(model(input_ids=x).logits, i, x, temperature=1.0).prev_sample
    return x


def block_refinement(model, x, steps):
    """diffusers' BlockRefinementScheduler, temperature 1: confidence order, another law."""
    scheduler = BlockRefinementScheduler(block_length=x.shape[1])
    scheduler.set_timesteps(steps.number, block_length=x.shape[1])
    mask = model.config.mask_token_id
    for i in steps.indices():
        step = scheduler.step(
            model(input_ids=x).logits, i, x, mask_token_id=mask, temperature=1.0, threshold=1.0
        )
        x = step.prev_sample
    return x


def in_float32(way):
    """The same with float32 numbers."""
    return lambda model, x, steps: way(model, x, steps, torch.float32)


def with_cache(model, x, steps):
    return mdlm(model, x, steps, cached=True)


#: By process: name -> loop.
WAYS = {
    "absorbing": {
        "ours": ours,
        "mdlm float64": mdlm,
        "mdlm float32": in_float32(mdlm),
        "mdlm cached": with_cache,
        "sedd analytic": sedd,
        "diffusers block refinement": block_refinement,
    },
    "uniform": {
        "ours": ours,
        "duo float64": duo,
        "duo float32": in_float32(duo),
        "diffusers discrete ddim": ddim,
    },
}
