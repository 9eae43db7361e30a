"""One step of a sampler on the batch of a training step: padding and context stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_ddistill.couplings.training_step import Local, TrainingStep
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers import Sampler
from hf_ddistill.shapes import LOG_ZERO, Times, Tokens


def step_back(
    step: TrainingStep, x_t: Tokens, here: Local, s: Times, sampler: Sampler
) -> tuple[Tokens, Tensor]:
    """x_s ~ p(x_s | x_t) by a sampler's rule, and the log-probability (B,) of what was drawn where
    x_0 was not certain; gradients flow from it to the prediction.

    Args:
        step: whose batch, or some of its rows.
        x_t: (B, L).
        here: the prediction at x_t where x_0 is not certain.
        s: (B,).
        sampler: one with a rule. Under one that keeps nothing, what is certain is drawn too.

    Raises:
        ValueError: for a sampler without a rule.
    """
    probs = _probs(step, x_t, here, s, sampler)
    drawn = step.draw(probs.detach(), here.where)
    log_p = probs.gather(-1, drawn[..., None])[..., 0].clamp_min(1e-30).log()
    x_s = here.place(drawn, x_t)
    sure = step.trained & ~here.where
    if not sampler.keeps_certain:
        certain = one_hot(x_t[sure], step.diffusion.vocab_size)[:, None].double()
        known = Local(Prediction(certain.log().clamp_min(LOG_ZERO)), sure, here.t)
        x_s = known.place(step.draw(_probs(step, x_t, known, s, sampler), sure), x_s)
    total = torch.zeros(x_t.shape[0], dtype=torch.float64, device=x_t.device)
    return x_s, total.index_add(0, here.rows, log_p[:, 0].double())


def _probs(step: TrainingStep, x_t: Tokens, here: Local, s: Times, sampler: Sampler) -> Tensor:
    rows, local = here.rows, x_t[here.where][:, None]
    return sampler.rule(here.prediction, step.diffusion, local, s[rows], here.t[rows])
