"""Compiles a planned step as one graph; in a process of its own, without the checks of shapes that
tests put around every function."""

from itertools import pairwise

import torch
from pipeline_cases import made, seeded

from hf_ddistill.models import as_denoiser
from hf_ddistill.samplers import Ancestral, Canvas
from hf_ddistill.samplers.plan import planned

denoiser, grid = as_denoiser(made()), [1.0, 0.5, 0.0]
chances = [Ancestral().known_chances(denoiser.diffusion, s, t) for t, s in pairwise(grid)]
calls = [asked for asked, _ in planned(grid, chances, Canvas.empty((2, 8)), seeded())]
x = torch.full((2, 8), 5)


def step(x, asked=calls[0]):
    """The first call of a plan."""
    return asked.put(asked.draw(denoiser, x, {}), x)


with torch.no_grad():
    expected = step(x)  # constants of the process are made here
    found = torch.compile(step, backend="eager", fullgraph=True)(x)
assert torch.equal(found, expected) and (expected != x).any()
