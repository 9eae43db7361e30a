"""How well p(x_0 | x_t) comes back from ratios, and how far one Euler step goes before it breaks.

P = P_0t is the kernel, d = P[:, x] its column, r the concrete score at x (1 at x itself):
    r = M(x) p,  M(x) = P^T diag(1 / d),  p = M(x)^-1 r = diag(d) P^-T r    (ECD, Eq. 8)
A row is a flat dict, ready for JSON: "section" says of what; None stands for what float64 cannot
tell. Total variations are means over positions, TV(p, q) = sum |p - q| / 2.

References: Gao, Sun, Distillation of Discrete Diffusion by Exact Conditional Distribution
Matching, 2025, arXiv:2512.12889; Campbell et al., 2022, arXiv:2205.14987.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diagnosis.condition_number import condition_row, finite, tokens_to_try
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical
from hf_ddistill.models import unwrapped
from hf_ddistill.parameterizations import Prediction, Score, recover
from hf_ddistill.processes import General, Kronecker, Process
from hf_ddistill.samplers import Ancestral, Euler
from hf_ddistill.shapes import LOG_ZERO, Probs, Tokens

Row: TypeAlias = dict[str, Any]

TIMES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
STEPS = (0.02, 0.1, 0.25, 0.5)
#: Of the logarithm of the perturbed ratios: 1 %.
NOISE = 0.01


@dataclass(frozen=True)
class Noised:
    """N positions at one time, with a law of x_0 for each that counts as the truth.

    Args:
        t: in (0, 1].
        x_t: (N, 1).
        truth: log p(x_0 | x_t), (N, 1, K) float64; None if the model itself cannot recover it.
    """

    t: float
    x_t: Tokens
    truth: Prediction | None


def noised_at_random(
    diffusion: Diffusion, t: float, positions: int, generator: torch.Generator
) -> Noised:
    """Exact Bayes for laws p(x_0) drawn evenly from the simplex (Dirichlet(1)) over data tokens.

    x_t is drawn from p_t among the tokens that leave x_0 open.
    """
    size = diffusion.vocab_size
    uniform = torch.rand(positions, 1, size, generator=generator, dtype=torch.float64)
    law = -torch.log1p(-uniform)
    law[..., list(diffusion.process.noise_tokens)] = 0.0
    law = law / law.sum(-1, keepdim=True)
    kernel = diffusion.kernel(0.0, t)
    tokens = torch.arange(size)
    open_tokens = diffusion.undetermined(tokens[None])[0]
    x_t = categorical(kernel.vecmat(law).clamp_min(0) * open_tokens, generator)
    joint = law * kernel.columns(x_t).clamp_min(0)
    truth = (joint / joint.sum(-1, keepdim=True)).log().clamp_min(LOG_ZERO)
    return Noised(t, x_t, Prediction(truth))


@torch.no_grad()
def noised_by_model(
    denoiser: Denoiser, x_0: Tokens, t: float, positions: int, generator: torch.Generator
) -> Noised:
    """A model's own predictions on corrupted data (B, L), at `positions` open ones at most."""
    x_t = denoiser.diffusion.corrupt(x_0, t, generator)
    where = denoiser.diffusion.undetermined(x_t).flatten().nonzero()[:, 0].cpu()
    chosen = where[torch.randperm(len(where), generator=generator)[:positions]].to(x_t.device)
    tokens = x_t.flatten()[chosen][:, None].cpu()
    try:
        log_p = denoiser(x_t, t).log_conditional.flatten(0, 1)[chosen][:, None]
    except (ValueError, torch.linalg.LinAlgError):
        # A network that gives ratios has no conditional where the kernel cannot be inverted:
        # that is a finding, not a mistake of the caller's.
        if not isinstance(denoiser.parameterization, Score):
            raise
        return Noised(t, tokens, None)
    return Noised(t, tokens, Prediction(log_p.double().cpu().log_softmax(-1)))


def recovery_rows(diffusion: Diffusion, noised: Noised, generator: torch.Generator) -> list[Row]:
    """Errors of p(x_0 | x_t) recovered from exact ratios in float64 and float32, and from ones that
    are off by 1 % (log-normal, independent), before and after clamping and renormalising.

    `negative_mass` is the share of the negative entries in sum |p|. Where no mass is left after
    clamping the law is lost, and counts as a total variation of 1.
    """
    base: Row = {"section": "recovery", "t": noised.t, "positions": len(noised.x_t)}
    if noised.truth is None or len(noised.x_t) == 0:
        return [base | {"ratios": name} | dict.fromkeys(_ERRORS) for name in _RATIOS]
    score = noised.truth.score(diffusion, noised.x_t, noised.t)
    noise = torch.randn(score.shape, generator=generator, dtype=torch.float64)
    noise = noise.scatter(-1, noised.x_t[..., None], 0.0)  # the ratio at x_t is 1, and known
    given = (score, score.float(), score * torch.exp(NOISE * noise))
    return [
        base | {"ratios": name} | _errors(noised, diffusion, ratios)
        for name, ratios in zip(_RATIOS, given, strict=True)
    ]


_RATIOS = ("float64", "float32", "1% off")
_ERRORS = ("max_error", "tv", "negative_mass", "max_error_clamped", "tv_clamped")


def _errors(noised: Noised, diffusion: Diffusion, ratios: Probs) -> Row:
    truth = noised.truth.log_conditional.exp()
    try:
        raw = recover(ratios, diffusion, noised.x_t, noised.t).double()
    except torch.linalg.LinAlgError:
        raw = torch.full_like(truth, math.nan)
    clamped = raw.clamp_min(0)
    total = clamped.sum(-1, keepdim=True)
    clamped = clamped / total
    kept = (total > 0) & total.isfinite()
    gap = torch.where(kept, (clamped - truth).abs(), torch.ones_like(truth))
    variation = torch.where(kept[..., 0], gap.sum(-1) / 2, torch.ones_like(total[..., 0]))
    negative = raw.clamp_max(0).abs().sum(-1) / raw.abs().sum(-1)
    values = ((raw - truth).abs().max(), (raw - truth).abs().sum(-1).mean() / 2, negative.mean())
    values = (*values, gap.max(), variation.mean())
    return {name: finite(float(value)) for name, value in zip(_ERRORS, values, strict=True)}


def commutation_rows(process: Process, sigmas: Sequence[float]) -> list[Row]:
    """Whether the rates at different times commute: max |[Q, Q']| / (|Q| |Q'|), infinity norm.

    One row for each factor of a product. Between knots (`General`) it is that of the knots, with
    the number of exponentials between two knots and the bound on the kernel's error. Every other
    kernel is a closed form and exact, whether its rates commute or not (`Hybrid`: they do not).
    """
    if isinstance(process, Kronecker):
        return [row for factor in process.factors for row in commutation_rows(factor, sigmas)]
    row: Row = {"section": "commutation", "t": None, "process": process.id}
    row["vocab_size"] = process.vocab_size
    if isinstance(process, General):
        value, steps = process.commutator, process.steps if process.knots is not None else 1
        return [row | {"commutator": value, "error_bound": process.error_bound, "steps": steps}]
    rates = [process.rate(torch.tensor(sigma, dtype=torch.float64)) for sigma in sigmas]
    tokens = tokens_to_try(rates[0], torch.arange(process.vocab_size))
    sizes = [float(rate.rows(tokens[None]).abs().sum(-1).max()) for rate in rates]
    value = 0.0
    for i, first in enumerate(rates):
        for j, second in enumerate(rates[:i]):
            gap = second.vecmat(first.rows(tokens[None])) - first.vecmat(second.rows(tokens[None]))
            value = max(value, float(gap.abs().sum(-1).max()) / (sizes[i] * sizes[j]))
    return [row | {"commutator": value, "error_bound": 0.0, "steps": 1}]


def euler_rows(diffusion: Diffusion, noised: Noised, steps: Sequence[float]) -> list[Row]:
    """One Euler step of length h against the exact (ancestral) one, for every h that fits in t.

    `clipped` is the share of positions where the probability of leaving x_t would exceed 1.
    """
    if noised.truth is None or len(noised.x_t) == 0:
        return []
    x_t, t = noised.x_t, noised.t
    rate = diffusion.reverse_rate(noised.truth.score(diffusion, x_t, t), x_t, t)
    leaving = -rate.gather(-1, x_t[..., None])[..., 0, 0]
    rows = []
    for h in steps:
        if h > t + 1e-9:
            continue
        s = max(t - h, 0.0)
        given = (noised.truth, diffusion, x_t, s, t)
        variation = (Euler().rule(*given) - Ancestral().rule(*given)).abs().sum(-1).mean() / 2
        row: Row = {"section": "euler", "t": t, "h": h, "tv": finite(float(variation))}
        clipped = float((leaving * h > 1 + 1e-9).double().mean())
        rows.append(row | {"clipped": clipped, "positions": len(x_t)})
    return rows


def diagnose(
    diffusion: Diffusion,
    noised: Iterable[Noised],
    steps: Sequence[float] = STEPS,
    generator: torch.Generator | None = None,
) -> Iterator[Row]:
    """All rows at the times of `noised`, as they are found; then those on commutation."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    sigmas = []
    for at in noised:
        sigmas.append(float(diffusion.schedule.sigma(torch.tensor(at.t, dtype=torch.float64))))
        yield condition_row(diffusion, at.t)
        yield from recovery_rows(diffusion, at, generator)
        yield from euler_rows(diffusion, at, steps)
    yield from commutation_rows(diffusion.process, sigmas)


def warm_against_random(
    run: Callable[[nn.Module], Sequence[float]], model: nn.Module, seed: int = 0
) -> list[Row]:
    """The loss curves of one training from the model's weights and from fresh ones.

    Args:
        run: trains the model that it is given and returns the loss of each step. It is called
            twice under the same seed; the caller's random state and `model` stay as they were.
        model: a `PreTrainedModel`, or one wrapped.
        seed: of the fresh weights and of both trainings.
    """
    rows = []
    for start in ("warm", "random"):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            student = copy.deepcopy(model) if start == "warm" else _fresh(model)
            torch.manual_seed(seed)
            losses = run(student)
        for step, loss in enumerate(losses):
            row: Row = {"section": "start", "t": None, "start": start, "step": step}
            rows.append(row | {"loss": finite(float(loss))})
    return rows


def _fresh(model: nn.Module) -> nn.Module:
    inner = unwrapped(model)
    fresh = type(inner)(copy.deepcopy(inner.config))
    return fresh.to(device=inner.device, dtype=inner.dtype).train(model.training)
