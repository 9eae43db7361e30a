"""The difference of two likelihood bounds where no state hides its tokens, with all that moves in
it.

x_0 drawn from the student's law q of each token; z = x_0 noised up to t, so that z_i ~ q_i P_0t
whatever the others are; s_T, s_A the concrete scores of teacher and auxiliary at z, s_q that of
q_i P_0t alone. Averaged over x_0 given z, the integrands of the bounds differ by

    C(z) = sigma'(t) sum over i, y != z_i of Q[y, z_i] (s_T - s_A - s_q (log s_T - log s_A))(y)

whose mean over t and z is L(teacher) - L(auxiliary) of IDLM. Where both are exact that is the KL of
the laws of whole paths, and so, of one call from noise, the KL of the laws of x_0. With q move s_q
and z itself:

    dL = E [sum over i of d log (q_i P_0t)(z_i) (C - mean of other rows) + dC]

The paper has z relaxed into a softmax and differentiates through the networks; here z is a token,
and no network is differentiated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.objectives.generated import Generated
from hf_ddistill.objectives.groups import less_the_others
from hf_ddistill.objectives.log_ratio import LogRatio
from hf_ddistill.objectives.views import View
from hf_ddistill.parameterizations import Prediction

#: Ratios below it are none that a logarithm could tell apart.
LEAST = 1e-30


def of_moving_states(
    step: TrainingStep, made: Generated, view: View, ratio: LogRatio, good: Tensor
) -> Tensor:
    """What a row (B,) loses; gradients flow to the student's prediction.

    Args:
        step: of the training.
        made: what the student drew.
        view: of it, noised anew.
        ratio: what the others say there.
        good: (B,), rows that count.
    """
    local, diffusion = made.student, step.diffusion
    t = view.t.index_select(0, local.rows)
    z = local.places.take(view.z)[:, None]
    kernel = diffusion.kernel(torch.zeros_like(t), t)
    law = kernel.vecmat(local.prediction.log_conditional.exp()).double()
    here = law.gather(-1, z[..., None]).clamp_min(LEAST)
    with torch.no_grad():
        teacher, auxiliary = (
            Prediction(log_p[:, None]).score(diffusion, z, t).double().clamp_min(LEAST)
            for log_p in ratio.laws
        )
        rates = diffusion.process.rate(diffusion.total_noise(t)).columns(z, torch.float64)
        rates = rates.scatter(-1, z[..., None], 0.0) * diffusion.pace(t)[:, None, None]
        gap = teacher.log() - auxiliary.log()
    parts = (rates * (teacher - auxiliary - law / here * gap)).sum((1, 2))
    drawn = here.log()[:, 0, 0]
    cost, chance = (
        values.new_zeros(len(view.t)).index_add(0, local.rows, values) for values in (parts, drawn)
    )
    alone = cost.detach()
    return (alone if step.held_out else less_the_others(alone, good)) * chance + cost
