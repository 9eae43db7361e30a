"""Sequences of three bits: laws of them, tables as students, steps of training."""

import torch
from enumeration import Table

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import Latent, NetworkDenoiser
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


class SignTable(torch.nn.Module):
    """Free logits for each pattern of the signs of the noise: a mixture of 2^L products."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(2**L, L, 3, dtype=torch.float64))

    def forward(self, x_t, t, noise, at=None):
        signs = (noise[..., 0] > 0).long()
        output = self.logits[(signs * 2 ** torch.arange(L)).sum(1)]
        return output if at is None else output.flatten(0, 1)[at]


def mixture(seed=0):
    """A student of masks with such a table, and the law (2^L,) of what it draws in one call."""
    torch.manual_seed(seed)
    student = NetworkDenoiser(SignTable(), MASKS, Subs(), latent=Latent(1))
    log_p = student.network.logits[..., :2].log_softmax(-1)
    clean = clean_sequences(MASKS, L)
    law = torch.stack([log_p[:, i, clean[:, i]] for i in range(L)]).sum(0).exp().mean(0)
    return student, law
