"""Causal laws that tests share."""

import torch

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.blocks.tables import CausalTable
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear

L = 4


MASKS = Diffusion(Absorbing(3), LogLinear())


def law(seed):
    logits = 1.5 * torch.randn(2**L, generator=torch.Generator().manual_seed(seed))
    return logits.double().softmax(0)


def causal(p):
    return NetworkDenoiser(CausalTable(p, MASKS), MASKS, Conditional(), reads_time=None)
