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
from torch import Tensor, nn

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import LinearOperator, ScalarPlusLowRank, categorical
from hf_ddistill.models import unwrapped
from hf_ddistill.parameterizations import Denoiser, Prediction, Score, recover
from hf_ddistill.processes import General, Kronecker, Process
from hf_ddistill.reverse import ancestral, euler
from hf_ddistill.shapes import LOG_ZERO, Probs, Tokens

Row: TypeAlias = dict[str, Any]

TIMES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
STEPS = (0.02, 0.1, 0.25, 0.5)
#: Up to this K matrices are formed, and the norm is that of the singular value decomposition.
MAX_DENSE = 512
#: Up to this K every x is tried for the condition number; beyond it, `FEW` tokens over the range.
MAX_ALL, FEW = 64, 8
#: Entries of a kernel that is kept by its eigenvectors or as a matrix are known to about this.
ROUNDING = 1e-15
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


def operator_norm(kernel: LinearOperator, before: Tensor, after: Tensor) -> tuple[float, str]:
    """The 2-norm of diag(after) P^T diag(before), and the method that found it.

    "svd": the matrix, for K <= 512. "symmetry": exact at any K for c I + U C V^T with few distinct
    rows; tokens that are alike share one row of a small matrix, and what sums to 0 over them is
    only scaled. "power iteration": K beyond 512, an estimate from below.

    Args:
        kernel: P, not batched.
        before: (K,) float64.
        after: (K,) float64.
    """
    if kernel.size <= MAX_DENSE:
        return _two_norm(after[:, None] * kernel.dense().mT * before), "svd"
    if isinstance(kernel, ScalarPlusLowRank):
        norm = symmetric_norm(kernel, before, after)
        if norm is not None:
            return norm, "symmetry"
    return power_norm(kernel, before, after), "power iteration"


def symmetric_norm(kernel: ScalarPlusLowRank, before: Tensor, after: Tensor) -> float | None:
    """`operator_norm` by the symmetry between tokens; None if more than 512 are unlike."""
    keys = torch.cat([before[:, None], after[:, None], kernel.left, kernel.right], 1)
    unlike, counts = torch.unique(keys, dim=0, return_counts=True)
    if len(unlike) > MAX_DENSE:
        return None
    before, after = unlike[:, 0], unlike[:, 1]
    left, right = unlike[:, 2:].chunk(2, 1)
    weight = counts.double().sqrt()
    own = kernel.scalar * before * after
    shared = (weight * after)[:, None] * (right @ kernel.core.mT @ left.mT) * (weight * before)
    alike = own.abs()[counts > 1]
    return max(_two_norm(torch.diag(own) + shared), float(alike.max()) if len(alike) else 0.0)


def power_norm(kernel: LinearOperator, before: Tensor, after: Tensor, steps: int = 500) -> float:
    """`operator_norm` by power iteration, without a matrix; from below."""

    def apply(v: Tensor) -> Tensor:
        return after * kernel.vecmat(before * v)

    generator = torch.Generator().manual_seed(0)
    v = torch.randn(kernel.size, generator=generator, dtype=torch.float64)
    norm = 0.0
    for _ in range(steps):
        u, adjoint = torch.func.vjp(apply, v / v.norm())
        last, norm = norm, float(u.norm())
        if not math.isfinite(norm) or abs(norm - last) <= 1e-10 * norm:
            break
        (v,) = adjoint(u)
    return norm if math.isfinite(norm) else math.inf


def _two_norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2)) if bool(matrix.isfinite().all()) else math.inf


def condition_row(diffusion: Diffusion, t: float) -> Row:
    """The condition number of M(x) in the 2-norm, at the x where it is worst, and that of P_0t.

    The first is the most that relative errors of the ratios can grow by; the columns of M(x) have
    very unequal sizes, and the condition number of P_0t is without that. The inverse is the closed
    form that recovery uses. A token that cannot have become x has probability 0 and is left out.
    """
    kernel = diffusion.kernel(0.0, t)
    row: Row = {"section": "condition", "t": t, "alpha": float(diffusion.schedule.alpha(t))}
    one = torch.ones(diffusion.vocab_size, dtype=torch.float64)
    try:
        inverse = kernel.inverse()
    except torch.linalg.LinAlgError:
        inverse = None
    found = [(math.inf, None, operator_norm(kernel, one, one)[1])]
    of_kernel = math.inf
    if inverse is not None:
        tokens = _tried_tokens(diffusion)
        found = [(*_condition(kernel, inverse, x), x) for x in tokens.tolist()]
        found = [(value, x, method) for value, method, x in found]
        of_kernel = operator_norm(kernel, one, one)[0] * operator_norm(inverse, one, one)[0]
    value, token, method = max(found, key=lambda entry: entry[0])
    row |= {"condition": _number(value), "kernel_condition": _number(of_kernel)}
    return row | {"token": token, "norm": "2", "method": method}


def _condition(kernel: LinearOperator, inverse: LinearOperator, x: int) -> tuple[float, str]:
    column = kernel.columns(torch.tensor([[x]]))[0, 0]
    one = torch.ones_like(column)
    # Only c I + U C V^T has its small entries to full relative precision.
    lost = (column != 0) & (column < ROUNDING)
    if not isinstance(kernel, ScalarPlusLowRank) and bool(lost.any()):
        return math.inf, operator_norm(kernel, one, one)[1]
    over = torch.where(column > 0, 1 / column, torch.zeros_like(column))
    norm, method = operator_norm(kernel, over, one)
    return norm * operator_norm(inverse, one, column)[0], method


def _tried_tokens(diffusion: Diffusion) -> Tensor:
    tokens = torch.arange(diffusion.vocab_size)
    tokens = tokens[diffusion.undetermined(tokens[None])[0]]
    if len(tokens) <= MAX_ALL:
        return tokens
    spread = tokens[torch.linspace(0, len(tokens) - 1, FEW).round().long()]
    mask = diffusion.process.mask_token_id
    return spread if mask is None else torch.cat([spread, torch.tensor([mask])]).unique()


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
    return {name: _number(float(value)) for name, value in zip(_ERRORS, values, strict=True)}


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
    tokens = torch.arange(process.vocab_size)
    tokens = tokens if len(tokens) <= MAX_ALL else tokens[:: len(tokens) // FEW]
    rates = [process.rate(torch.tensor(sigma, dtype=torch.float64)) for sigma in sigmas]
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
        variation = (euler(*given) - ancestral(*given)).abs().sum(-1).mean() / 2
        row: Row = {"section": "euler", "t": t, "h": h, "tv": _number(float(variation))}
        clipped = float((leaving * h > 1).double().mean())
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
        sigmas.append(float(diffusion.schedule.sigma(at.t)))
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
            rows.append(row | {"loss": _number(float(loss))})
    return rows


def _fresh(model: nn.Module) -> nn.Module:
    inner = unwrapped(model)
    fresh = type(inner)(copy.deepcopy(inner.config))
    return fresh.to(device=inner.device, dtype=inner.dtype).train(model.training)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
