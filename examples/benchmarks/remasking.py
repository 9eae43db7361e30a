"""Does it help to take back what was drawn? The laws of samplers that do, at equal calls.

The exact teacher of a small problem draws by each of them, and one whose every logit has an error;
the total variation from the data's law is exact.

    python examples/benchmarks/remasking.py --json examples/results/remasking.json
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise

import torch
from benchmark_files import rows_file

from hf_ddistill.denoisers import Denoiser, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, problems, sequence_numbers, terminal_law
from hf_ddistill.laboratory.branching import Branches, outcomes
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral, PredictorCorrector, Psi, ReMDM, ReMDMLoop, Sampler
from hf_ddistill.schedules import LogLinear

#: Of the teacher's logits.
ERRORS = (0.0, 0.5)
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


def teacher(problem: ExactProblem, error: float) -> Denoiser:
    """The exact one, with normal noise of this size on each logit of each state."""
    if not error:
        return problem.denoiser()
    generator, K = torch.Generator().manual_seed(0), problem.diffusion.vocab_size
    noise = torch.randn(*problem.states.shape, K, generator=generator, dtype=torch.float64)

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return problem.log_conditional(x_t, t) + error * noise[sequence_numbers(x_t, K)]

    return NetworkDenoiser(network, problem.diffusion, Conditional())


def law_of(sampler: Sampler, problem: ExactProblem, denoiser: Denoiser, steps: int) -> torch.Tensor:
    """The law over the problem's sequences of what is drawn in some steps."""
    grid = sampler.grid(steps, problem.diffusion)
    if sampler.is_product:
        return terminal_law(denoiser, problem, problem.length, grid, sampler)
    # Step by step and correction by correction, since states that were reached in different ways go
    # on as one.
    diffusion, states = problem.diffusion, problem.states
    law = diffusion.process.limit()[states].prod(1)
    for t, s in pairwise(grid):
        start = (law > 0).nonzero()[:, 0]
        said = denoiser(states[start], t)
        each = sampler.predictor.probs(said, diffusion, states[start], s, t)
        step = law.new_ones(len(start), len(states))
        for place in range(problem.length):
            step = step * each[:, place][:, states[:, place]]
        law = law[start] @ step
        for _ in range(sampler.corrections if s > 0 or diffusion.reveals else 0):
            law = corrected(sampler, problem, denoiser, law, s or t)
    return law[sequence_numbers(problem.sequences, diffusion.vocab_size)]


def corrected(
    sampler: Sampler, problem: ExactProblem, denoiser: Denoiser, law: torch.Tensor, s: float
) -> torch.Tensor:
    """The law over all states behind one correction, by enumeration of its draws."""
    start, found = (law > 0).nonzero()[:, 0], torch.zeros_like(law)

    def run(rows: torch.Tensor, generator: Branches) -> torch.Tensor:
        return sampler.corrected(denoiser, problem.states[start[rows]], s, generator)

    for weight, x in outcomes(run, law[start], 2**15):
        found.index_add_(0, sequence_numbers(x, problem.diffusion.vocab_size), weight)
    return found


def rows(name: str, process: str, error: float) -> list[dict[str, object]]:
    """TV of every sampler at each number of calls."""
    data = problems.PROBLEMS[name]()
    levels = int(data.sequences.max()) + 1
    noise = Absorbing(levels + 1) if process == "absorbing" else Uniform(levels)
    problem = ExactProblem(data.law, data.sequences, Diffusion(noise, LogLinear(1e-9)))
    found, denoiser = [], teacher(problem, error)
    for label, sampler in {**ANYWHERE, **(MASKS if process == "absorbing" else {})}.items():
        done = set()
        for calls in CALLS:
            steps = steps_of(sampler, calls, process == "absorbing")
            if steps < 1 or steps in done:
                continue
            done.add(steps)
            with torch.no_grad():
                law = law_of(sampler, problem, denoiser, steps)
            tv = float((law - problem.law).abs().sum() / 2)
            found.append({"problem": name, "process": process, "error": error, "sampler": label,
                          "nfe": calls, "steps": steps, "tv": tv})  # fmt: skip
            print(
                f"{process} {error} {label:32} {calls:3} calls {steps:3} steps {tv:.4f}", flush=True
            )
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", default="digits")
    parser.add_argument("--json", type=rows_file)
    options = parser.parse_args()
    found = [
        row
        for error in ERRORS
        for process in ("absorbing", "uniform")
        for row in rows(options.problem, process, error)
    ]
    if options.json:
        options.json.write_text(json.dumps({"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
