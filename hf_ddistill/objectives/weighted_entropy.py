"""What LSD's published code minimises in the place of its paper's least squares.

With s the scores at a mask, 1 for the mask itself; q = softmax(c log s) over all tokens, c the
number of a step; y = softmax of the probabilities of the teacher's step at the same time:

    L = - sum over tokens of q log(q + eps) / (y + eps)

1 / (y + eps) are weights of tokens, no two of which differ by more than a factor e, since y is the
softmax of probabilities; what is weighted is the entropy of q. Of every teacher its least value is
that of a q of one token, and c goes to infinity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.couplings import Local
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.places import Places
from hf_ddistill.samplers import Euler

EPS = 1e-3


def weighted_entropy(
    ours: Local, theirs: Local, diffusion: Diffusion, step: tuple[float, float], power: Tensor
) -> Tensor:
    """L at each position that is masked in both, (B, L) float64, 0 elsewhere; gradients flow to the
    power.

    Args:
        ours: what the network says along the student's steps.
        theirs: along the teacher's, at the same time.
        diffusion: of both.
        step: (s, t), the teacher's step.
        power: c, ().
    """
    places, mask = Places.of(ours.where & theirs.where), diffusion.process.mask_token_id
    log_p, law = (each.log_conditional_at(places).detach().double() for each in (ours, theirs))
    t = torch.as_tensor(step[1], dtype=torch.float64, device=log_p.device)
    log_s = (log_p - torch.expm1(diffusion.total_noise(t)).log()).index_fill(
        -1, torch.tensor(mask, device=log_p.device), 0.0
    )
    reveal = float(Euler().chances(diffusion, *step).reveal)
    moved = reveal * law.exp()
    moved[:, mask] = 1 - reveal
    q = (power * log_s).softmax(-1)
    lost = -(q * (q + EPS).log() / (moved.softmax(-1) + EPS)).sum(-1)
    return places.put(lost, lost.new_zeros(places.shape))
