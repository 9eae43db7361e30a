"""How fast each sampler's exact law comes to the data's: total variation against calls, and grids.

    python examples/benchmarks/sampler_orders.py --json examples/results/sampler_orders.json \
        --plot docs/results/sampler_orders.png

Patches of digits with the exact teacher: 2 x 2 for the orders (what two calls a step draw has 7^L
branches), 2 x 3, the standard problem, for the grids. Laws are exact, `calls` are those of the
denoiser. Orders are by the distance from what the exact reverse process makes of the noise that
the sampler starts from.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import matplotlib as mpl
from benchmark_files import rows_file

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diagnosis.step_times import step_costs
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import (
    ExactProblem,
    all_sequences,
    terminal_law,
    total_variation,
)
from hf_ddistill.laboratory.problems import digits
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import (
    Ancestral,
    Euler,
    FirstHitting,
    GivenTimes,
    GreedyTail,
    Sampler,
    TauLeaping,
    ThetaRK2,
    ThetaTrapezoidal,
)
from hf_ddistill.schedules import Cosine, LogLinear

PROCESSES = {"absorbing": Absorbing(3), "uniform": Uniform(2)}
EVERYWHERE = (Ancestral(), Euler(), TauLeaping(), ThetaRK2(), ThetaTrapezoidal(), GreedyTail())
TWICE = ("theta_rk2", "theta_trapezoidal")
CALLS = (2, 4, 8, 16, 32, 64)


def problem_of(diffusion: Diffusion, length: int = 6, share: float = 1.0) -> ExactProblem:
    """The first pixels of the standard problem under a diffusion; a share of the law, and for the
    rest independent pixels with its margins."""
    law = digits().law.view(2**length, -1).sum(1)
    sequences = all_sequences(torch.arange(2), length)
    ones = (law[:, None] * sequences).sum(0)
    independent = torch.where(sequences == 1, ones, 1 - ones).prod(1)
    return ExactProblem(share * law + (1 - share) * independent, sequences, diffusion)


def denoiser_of(problem: ExactProblem) -> NetworkDenoiser:
    """The exact teacher, which under masking reads no time."""
    inner = problem.denoiser()
    if not problem.diffusion.reveals:
        return inner
    return NetworkDenoiser(
        lambda x_t, t: inner(x_t, 0.5).log_conditional,
        problem.diffusion,
        Conditional(),
        reads_time=None,
    )


def law_of(problem: ExactProblem, sampler: Sampler, steps: int) -> torch.Tensor:
    """The exact law of what a sampler draws."""
    grid = sampler.grid(steps, problem.diffusion)
    with torch.no_grad():
        return terminal_law(denoiser_of(problem), problem, problem.length, grid, sampler)


def reached(problem: ExactProblem) -> torch.Tensor:
    """What the exact reverse process makes of the prior: E_noise p(x_0 | x_1)."""
    diffusion = problem.diffusion
    kernel = diffusion.kernel(0.0, 1.0).dense()[: problem.sequences.max() + 1]
    columns = [kernel[problem.sequences[:, i]] for i in range(problem.length)]
    joint = problem.law[:, None] * torch.stack(
        [column[:, problem.states[:, i]] for i, column in enumerate(columns)]
    ).prod(0)
    prior = diffusion.process.limit()[problem.states].prod(-1)
    possible = joint.sum(0) > 0
    return (joint[:, possible] / joint[:, possible].sum(0)) @ prior[possible]


def order_rows(share: float) -> list[dict]:
    """One for each sampler, process and number of calls."""
    rows = []
    for name, process in PROCESSES.items():
        problem = problem_of(Diffusion(process, Cosine(1e-3)), 4, share)
        exact = reached(problem)
        samplers = [*EVERYWHERE, FirstHitting()] if name == "absorbing" else EVERYWHERE
        for sampler in samplers if share == 1 else (Ancestral(), ThetaTrapezoidal()):
            for calls in CALLS:
                steps = calls // 2 if sampler.id in TWICE else calls
                law = law_of(problem, sampler, steps)
                row = {"section": "order", "share": share, "process": name, "sampler": sampler.id}
                row |= {"calls": calls, "tv": float(total_variation(law, exact))}
                rows.append(row | {"entropy": float(torch.special.entr(law).sum())})
                print(rows[-1], flush=True)
    return rows


def at_shares(diffusion: Diffusion, shares: list[float]) -> list[float]:
    """The times at which these shares of noise are left, from 1 to 0."""
    most = -math.expm1(-float(diffusion.total_noise(torch.tensor(1.0).double())))
    inner = torch.tensor(shares[1:-1], dtype=torch.float64) * most
    return [1.0, *diffusion.schedule.inverse(-torch.log1p(-inner)).tolist(), 0.0]


def searched(problem: ExactProblem, grid: list[float]) -> list[float]:
    """The grid whose exact law is nearest to the data, from a given one, by moving one time after
    the other: what a bound can at best find."""

    def distance(times: list[float]) -> float:
        law = law_of(problem, GivenTimes(times=times), len(times) - 1)
        return float(total_variation(law, problem.law))

    width, best = 0.5, distance(grid)
    while width > 0.02:
        moved = False
        for place in range(1, len(grid) - 1):
            before, here, behind = grid[place - 1 : place + 2]
            for other in (here + width * (before - here), here + width * (behind - here)):
                tried = [*grid[:place], other, *grid[place + 1 :]]
                if (found := distance(tried)) < best - 1e-6:
                    grid, best, moved = tried, found, True
        width = width if moved else width / 2
    return grid


def grid_rows() -> list[dict]:
    """Ancestral steps at even times, cosine ones, and optimised ones."""
    rows = []
    for name, process in PROCESSES.items():
        problem = problem_of(Diffusion(process, LogLinear(1e-3)))
        generator = torch.Generator().manual_seed(0)
        x_0 = problem.sequences[torch.multinomial(problem.law, 4096, True, generator=generator)]
        costs = step_costs(denoiser_of(problem), x_0, 48, generator)
        for n in (4, 8, 16):
            even, cosine = (
                at_shares(problem.diffusion, [share(i / n) for i in range(n + 1)])
                for share in (lambda i: 1 - i, lambda i: math.cos(math.pi / 2 * i))
            )
            bound = costs.best_times(n)
            grids = {"even": even, "cosine": cosine, "bound": bound}
            if n < 16:
                grids["search"] = searched(problem, bound)
            for kind, grid in grids.items():
                law = law_of(problem, GivenTimes(times=grid), n)
                row = {"section": "grid", "process": name, "calls": n, "grid": kind}
                row["tv"] = float(total_variation(law, problem.law))
                row["kl"] = float((problem.law * (problem.law / law).log()).sum())
                rows.append(row | {"times": grid})
                print(row, flush=True)
    return rows


def draw(rows: list[dict], file: Path) -> None:
    """The distances, a panel for each process."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), sharey=True, layout="constrained")
    for panel, name in zip(axes, PROCESSES, strict=True):
        own = [r for r in rows if (r.get("share"), r["process"]) == (1, name)]
        for sampler in dict.fromkeys(row["sampler"] for row in own):
            line = [(r["calls"], max(r["tv"], 1e-5)) for r in own if r["sampler"] == sampler]
            panel.loglog(*zip(*line, strict=True), marker="o", markersize=3, label=sampler)
        for order, start in ((1, 0.5), (2, 1.2)):
            ends = [start / calls**order * 2**order for calls in (CALLS[0], CALLS[-1])]
            panel.loglog((CALLS[0], CALLS[-1]), ends, color="0.8", zorder=0)
            panel.annotate(f"order {order}", (CALLS[-1], ends[-1]), color="0.5", fontsize=7)
        panel.set(title=name, xlabel="calls", ylim=(3e-5, 1), xticks=CALLS, xticklabels=CALLS)
        panel.minorticks_off()
        panel.legend(fontsize=7, frameon=False)
    axes[0].set_ylabel("total variation from the data")
    figure.savefig(file, dpi=100)
    plt.close(figure)


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=rows_file)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = order_rows(1.0) + order_rows(0.2) + grid_rows()
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    if options.plot is not None:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
