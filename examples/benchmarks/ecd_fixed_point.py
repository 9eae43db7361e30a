"""Where ECD ends when x_s is drawn by the student's own step, computed and not trained.

    python examples/benchmarks/ecd_fixed_point.py --json examples/results/ecd_fixed_point.json

On the standard problem (2 x 3 patches of digits) from uniform noise: at each time t of the grid the
student q(x_0 | x_t) = E over s and x_s ~ step of q from t to s of p(x_0 | x_s), by iteration from
the exact conditionals p; then the exact law of k ancestral steps with these q, and its total
variation from the data's. The step is Euler's (the default of the coupling) or the ancestral one; s
is uniform below t (the default) or within the student's step.
"""

import argparse
import json

import torch
from benchmark_files import rows_file

from hf_ddistill import Diffusion, LogLinear, Uniform
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.laboratory import (
    ExactProblem,
    sequence_numbers,
    terminal_law,
    total_variation,
)
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.samplers import Sampler, step_grid

ROUNDS, TIMES = 12, 12


def fixed_point(problem, sampler, low, t):  # noqa: ANN001, ANN201
    """q(x_0 | x_t) of all states, (N, L, K), with s uniform in (low, t)."""
    states = problem.states
    rows, length = states.shape
    q = problem.log_conditional(states, t).exp()
    later = torch.full((rows,), t, dtype=torch.float64)
    times = [low + (t - low) * (i + 0.5) / TIMES for i in range(TIMES)]
    exact = [problem.log_conditional(states, s).exp() for s in times]
    for _ in range(ROUNDS):
        said, q = Prediction(q.clamp_min(1e-300).log()), torch.zeros_like(q)
        for s, p in zip(times, exact, strict=True):
            rule = sampler.rule(said, problem.diffusion, states, torch.full_like(later, s), later)
            step = torch.ones(rows, rows, dtype=torch.float64)
            for i in range(length):
                step = step * rule[:, i].index_select(1, states[:, i])
            q = q + torch.einsum("xs,slk->xlk", step, p) / TIMES
    return q


def tv_of(problem, tables, steps):  # noqa: ANN001, ANN201
    """Of the law that ancestral steps end in, with a table for each time of the grid."""
    grid, size = torch.tensor(step_grid(steps)[:-1]), problem.diffusion.vocab_size

    def network(x_t, t, at=None):  # noqa: ANN001, ANN202
        call = (t[:, None] - grid).abs().argmin(-1)
        log_p = torch.stack(tables)[call, sequence_numbers(x_t, size)].clamp_min(1e-300).log()
        return log_p if at is None else log_p.flatten(0, 1)[at]

    denoiser = NetworkDenoiser(network, problem.diffusion, Conditional())
    law = terminal_law(denoiser, problem, problem.length, step_grid(steps))
    return float(total_variation(problem.law, law))


def main() -> None:
    """Compute, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    torch.set_num_threads(1)
    law = exact_law("digits")
    problem = ExactProblem(law.law, law.sequences, Diffusion(Uniform(2), LogLinear(1e-9)))
    rows = []
    for steps in (1, 2, 4):
        grid = step_grid(steps)[:-1]
        exact = [problem.log_conditional(problem.states, t).exp() for t in grid]
        row = {"process": "uniform", "nfe": steps}
        rows.append({"step": "exact teacher", **row, "tv": tv_of(problem, exact, steps)})
        for name in ("euler", "ancestral"):
            for times in ("uniform_times", "grid_times"):
                width = None if times == "uniform_times" else 1 / steps
                sampler, tables = Sampler.from_config(name), []
                for t in grid:
                    low = 0.0 if width is None else t - width
                    tables.append(fixed_point(problem, sampler, low, t))
                tv = tv_of(problem, tables, steps)
                rows.append({"step": name, "times": times, **row, "tv": tv})
    for row in rows:
        print(row)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
