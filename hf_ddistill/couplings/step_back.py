"""One step of a sampler on the batch of a training step: padding and context stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_ddistill.couplings.training_step import Local, TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg import categorical, categorical_of_logs, uniform_noise
from hf_ddistill.parameterizations import Prediction, log_prob_of
from hf_ddistill.places import Places
from hf_ddistill.samplers import Sampler
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.shapes import LOG_ZERO, Times, Tokens

#: Entries of the laws that are made at a time where no gradient needs them.
CHUNK = 2**20


def step_back(
    step: TrainingStep, x_t: Tokens, here: Local, s: Times, sampler: Sampler
) -> tuple[Tokens, Tensor]:
    """x_s ~ p(x_s | x_t) by a sampler's rule, and the log-probability (B,) of what was drawn where
    x_0 was not certain; gradients flow from it to the prediction.

    Where the sampler says by itself which positions change (`Sampler.chances`), no other one is
    looked at.

    Args:
        step: whose batch, or some of its rows.
        x_t: (B, L).
        here: the prediction at x_t where x_0 is not certain.
        s: (B,).
        sampler: one with a rule. Under one that keeps nothing, what is certain is drawn too.

    Raises:
        ValueError: for a sampler without a rule.
    """
    chances = chances_of(step, sampler, s, here.t)
    if chances is None:
        x_s, log_p = _by_rule(step, x_t, here, s, sampler)
    else:
        x_s, log_p = _by_chances(step, x_t, here, chances)
        if not sampler.keeps_certain:
            numbers = uniform_noise(x_t.shape, step.generator, x_t.device)
            x_s = _masked_again(step, x_s, x_t, chances, numbers)
    total = torch.zeros(x_t.shape[0], dtype=torch.float64, device=x_t.device)
    return x_s, total.index_add(0, here.rows, log_p)


@torch.no_grad()
def step_of(
    step: TrainingStep, denoiser: Denoiser, x_t: Tokens, s: Times, t: Times, sampler: Sampler
) -> Tokens:
    """x_s by one step of a denoiser, which is asked only where a token is drawn, as far as the
    sampler knows where that is before it has asked."""
    denoiser = sampler.asked(denoiser, x_t, s, t)
    chances = chances_of(step, sampler, s, t)
    if chances is None:
        return step_back(step, x_t, step.look(denoiser, x_t, t), s, sampler)[0]
    numbers = uniform_noise(x_t.shape, step.generator, x_t.device)
    share = numbers / chances.reveal[:, None]
    here = step.look(denoiser, x_t, t, step.open(x_t) & (share < 1))
    x_s = here.place(_drawn(here.prediction.log_conditional, here.places.take(share)), x_t)
    if sampler.keeps_certain:
        return x_s
    return _masked_again(step, x_s, x_t, chances, numbers)


def chances_of(step: TrainingStep, sampler: Sampler, s: Times, t: Times) -> Chances | None:
    """Those of a step, one for each row."""
    chances = sampler.known_chances(step.diffusion, s, t)
    if chances is None:
        return None
    reveal, remask = (
        torch.as_tensor(each, dtype=torch.float64, device=t.device).expand(t.shape)
        for each in (chances.reveal, chances.remask)
    )
    return Chances(reveal, remask)


def _by_chances(
    step: TrainingStep, x_t: Tokens, here: Local, chances: Chances
) -> tuple[Tokens, Tensor]:
    """x_s, and the log-probability (N,) of what became of each position."""
    reveal = chances.reveal.index_select(0, here.rows)
    share = step.numbers(here.places) / reveal
    shown = (share < 1).nonzero()[:, 0]
    places = Places(here.places.index.index_select(0, shown), here.places.shape)
    with torch.no_grad():
        log_p = here.prediction.log_conditional.index_select(0, shown)
        x_s = places.put(_drawn(log_p, share.index_select(0, shown))[:, 0], x_t)
    # At all positions, since so the gradient goes straight to the logits; a mask is none of them.
    of_token = here.log_prob_of(x_s)[:, 0].index_select(0, shown)
    gained = reveal.log().index_select(0, shown) + of_token.double()
    kept = torch.log1p(-reveal).clamp_min(LOG_ZERO)
    return x_s, kept.index_copy(0, shown, gained)


def _drawn(log_p: Tensor, noise: Tensor) -> Tensor:
    """Tokens (N, 1) of laws (N, 1, K)."""
    return categorical_of_logs(log_p, noise=noise[:, None])


def _masked_again(
    step: TrainingStep, x_s: Tokens, x_t: Tokens, chances: Chances, numbers: Tensor
) -> Tokens:
    """x_s with masks among what was certain at x_t."""
    sure = step.trained & ~step.diffusion.undetermined(x_t)
    again = sure & (numbers >= 1 - chances.remask[:, None])
    return x_s.masked_fill(again, step.diffusion.process.mask_token_id)


def _by_rule(
    step: TrainingStep, x_t: Tokens, here: Local, s: Times, sampler: Sampler
) -> tuple[Tokens, Tensor]:
    drawn, log_p = _ruled(step, x_t, here, s, sampler)
    x_s = here.places.put(drawn, x_t)
    if not sampler.keeps_certain:
        sure = Places.of(step.trained & ~here.where)
        certain = one_hot(sure.take(x_t), step.diffusion.vocab_size)[:, None].double()
        known = Local(Prediction(certain.log().clamp_min(LOG_ZERO)), sure, here.t)
        x_s = sure.put(_ruled(step, x_t, known, s, sampler)[0], x_s)
    return x_s, log_p


def _ruled(
    step: TrainingStep, x_t: Tokens, here: Local, s: Times, sampler: Sampler
) -> tuple[Tensor, Tensor]:
    """Tokens (N,) by the rule and their log-probabilities; without gradients a few positions at a
    time, so that no law of all of them is made."""
    log_p, noise = here.prediction.log_conditional, step.numbers(here.places)
    tokens = here.places.take(x_t)[:, None]
    then, now = (times.index_select(0, here.rows) for times in (s, here.t))
    size = len(log_p) if torch.is_grad_enabled() else CHUNK // log_p.shape[-1]
    drawn, gained = [tokens[:0, 0]], [noise[:0]]
    for start in range(0, len(log_p), max(1, size)):
        at = slice(start, start + max(1, size))
        local = Prediction(log_p[at])
        probs = sampler.rule(local, step.diffusion, tokens[at], then[at], now[at])[:, 0]
        drawn.append(categorical(probs, noise=noise[at]))
        gained.append(log_prob_of(probs, drawn[-1]).clamp_min(1e-30).log().double())
    return torch.cat(drawn), torch.cat(gained)
