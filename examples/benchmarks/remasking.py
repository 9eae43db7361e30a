"""Does it help to take back what was drawn? The laws of samplers that do, at equal calls.

The exact teacher of a small problem draws by each of them; the total variation from the data's law
is exact. `python examples/benchmarks/remasking.py --json examples/results/remasking.json`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, problems, terminal_law
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral, PredictorCorrector, Psi, ReMDM, ReMDMLoop, Sampler
from hf_ddistill.schedules import LogLinear

CALLS = (1, 2, 4, 8, 16, 32, 64)
ANYWHERE = {
    "ancestral": Ancestral(),
    "psi, rescale .05": Psi(strategy="rescale", eta=0.05),
    "psi, rescale .5": Psi(strategy="rescale", eta=0.5),
    "psi, kappa .5": Psi(0.5),
    "psi, kappa 0 (jump)": Psi(0.0),
    **{
        f"{corrector}, {corrections} a step": PredictorCorrector(
            corrector=corrector, corrections=corrections
        )
        for corrector in ("gibbs", "barker")
        for corrections in (1, 3)
    },
    "gibbs, 1 a step of 2 positions": PredictorCorrector(positions=2),
}
MASKS = {
    "remdm, cap .04": ReMDM("cap", 0.04),
    "remdm, rescale .3": ReMDM("rescale", 0.3),
    "remdm, rescale 1": ReMDM("rescale", 1.0),
    "remdm, forward-backward 1": ReMDM("forward_backward", 1.0),
    "remdm_loop, cap .02": ReMDMLoop(),
    "remdm_loop, rescale .5": ReMDMLoop("rescale", 0.5),
}


def steps_of(sampler: Sampler, calls: int, reveals: bool) -> int:
    """The most steps that make no more calls; 0, if there are none."""
    more = getattr(sampler, "corrections", 0)
    return calls // (1 + more) if reveals else (calls + more) // (1 + more)


def rows(name: str, process: str) -> list[dict[str, object]]:
    """TV of every sampler at each number of calls."""
    data = problems.PROBLEMS[name]()
    levels = int(data.sequences.max()) + 1
    noise = Absorbing(levels + 1) if process == "absorbing" else Uniform(levels)
    problem = ExactProblem(data.law, data.sequences, Diffusion(noise, LogLinear(1e-9)))
    found = []
    for label, sampler in {**ANYWHERE, **(MASKS if process == "absorbing" else {})}.items():
        done = set()
        for calls in CALLS:
            steps = steps_of(sampler, calls, process == "absorbing")
            if steps < 1 or steps in done:
                continue
            done.add(steps)
            grid = sampler.grid(steps, problem.diffusion)
            with torch.no_grad():
                law = terminal_law(problem.denoiser(), problem, problem.length, grid, sampler)
            tv = float((law - problem.law).abs().sum() / 2)
            found.append({"problem": name, "process": process, "sampler": label, "nfe": calls,
                          "steps": steps, "tv": tv})  # fmt: skip
            print(f"{process} {label:32} {calls:3} calls {steps:3} steps {tv:.4f}", flush=True)
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", default="digits")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = [row for process in ("absorbing", "uniform") for row in rows(options.problem, process)]
    if options.json:
        options.json.write_text(json.dumps({"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
