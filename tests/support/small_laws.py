"""Sequences of three bits: laws of them, tables as students, steps of training."""

import torch
from enumeration import Table

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, clean_sequences, sequence_numbers
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.schedules import LogLinear

L = 3
MASKS = Diffusion(Absorbing(3), LogLinear(1e-9))
FLIPS = Diffusion(Uniform(2), LogLinear(1e-9))
BOTH = Diffusion(Hybrid(3, uniform=0.2), LogLinear(1e-9))


def problem(diffusion, seed):
    sequences = clean_sequences(diffusion, L)
    logits = torch.randn(len(sequences), generator=torch.Generator().manual_seed(seed))
    return ExactProblem(logits.double().softmax(0), sequences, diffusion)


def step_of(diffusion, student, teacher=None, auxiliary=None, rows=8, **more):
    peers = {"teacher": teacher, "auxiliary": auxiliary} if teacher is not None else {}
    x_0 = clean_sequences(diffusion, L)[torch.arange(rows) % 2**L]
    generator = torch.Generator().manual_seed(7)
    return TrainingStep(x_0, diffusion, student, peers, generator=generator, **more)


class Index:
    """What `enumeration.Table` wants of a problem."""

    def __init__(self, diffusion):
        self.diffusion, self.clean = diffusion, clean_sequences(diffusion, L)

    def index(self, x):
        return sequence_numbers(x, self.diffusion.vocab_size)


def table(diffusion, seed=3):
    torch.manual_seed(seed)
    reading = Subs() if diffusion.reveals else Conditional()
    return NetworkDenoiser(Table(Index(diffusion)), diffusion, reading)
