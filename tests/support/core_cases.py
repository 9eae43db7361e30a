"""Processes and schedules beyond the registry's examples: the kinds whose ends are delicate."""

from __future__ import annotations

import torch

from hf_ddistill.processes import (
    Absorbing,
    General,
    Hybrid,
    Kronecker,
    LowRank,
    Ordinal,
    Process,
    Uniform,
)
from hf_ddistill.schedules import Cosine, Geometric, Linear, PiecewiseLinear, Polynomial, Schedule


def generator_matrix(rates):
    """Q with these rates (K, K) off its diagonal."""
    off = rates - torch.diag(rates.diagonal())
    return off - torch.diag(off.sum(-1))


def random_rate(seed, size=4):
    generator = torch.Generator().manual_seed(seed)
    return generator_matrix(torch.rand(size, size, generator=generator, dtype=torch.float64))


def to_mask(size=4):
    """A general process that ends in its last token, by way of the other ones."""
    rates = torch.rand(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rates[-1] = 0
    return generator_matrix(rates)


def knots(seeds=(0, 1, 2)):
    """A general process that changes over time."""
    taus = (0.0, 0.4, 0.8)
    pairs = [(t, random_rate(s)) for t, s in zip(taus, seeds, strict=True)]
    return General(knots=pairs, tolerance=0.1)


#: By name: every process of the registry, and variants of them.
PROCESSES = {name: cls.example(6) for name, cls in Process.registry.items()} | {
    "absorbing, two tokens": Absorbing(2),
    "absorbing, mask first": Absorbing(5, 0),
    "uniform, two tokens": Uniform(2),
    "hybrid without uniform": Hybrid(5, uniform=0.0),
    "hybrid, mostly uniform": Hybrid(5, uniform=0.99),
    "hybrid, constant": Hybrid(5, uniform=0.3, constant=True),
    "ordinal, 16 levels": Ordinal(16),
    "general, absorbing": General(to_mask(), mask_token_id=3),
    "general, absorbing without a name": General(to_mask()),
    "general, knots": knots(),
    "low rank, one end": LowRank(3, [[1.0, 0.0], [0.5, 0.5], [0.3, 0.7]], [[0, 0, 1], [0, 0, 1]]),
    "kronecker, mask and levels": Kronecker((Absorbing(3), Ordinal(2))),
    "kronecker, masks": Kronecker((Absorbing(2), Absorbing(3))),
}
#: One for each way in which a step is drawn: masks that reveal, flat noise, any other.
WAYS = ("absorbing", "uniform", "ordinal")
#: Every schedule of the registry, and variants of them.
SCHEDULES = [Schedule.from_config(name) for name in Schedule.registry] + [
    Linear(0.0, 690.0),
    Cosine(1e-12, 2),
    Geometric(1e-8, 100.0),
    Polynomial(0.5),
    PiecewiseLinear((0.9, 0.5, 1e-300)),
]
