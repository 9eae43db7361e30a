"""The loops that the benchmark of sampling compares draw from one law."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sampling_ways import WAYS, Steps

from hf_ddistill import Absorbing, Diffusion, Uniform
from hf_ddistill.parameterizations import GivenOthers, Prediction, Subs
from hf_ddistill.samplers import Ancestral
from hf_ddistill.schedules import LogLinear

K, ROWS = 4, 20_000


class Fixed:
    """A network that says the same of every position, whatever it sees."""

    config = SimpleNamespace(vocab_size=K, mask_token_id=K - 1)
    logits = torch.tensor([0.5, -1.0, 0.3, 0.1])

    def __call__(self, input_ids):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, K).clone())


NAMES = [
    (p, n) for p, ways in WAYS.items() for n in ways if n.split()[0] in ("mdlm", "sedd", "duo")
]


@pytest.mark.parametrize(("process", "name"), NAMES)
def test_one_step_of_a_loop_has_the_law_of_an_ancestral_step(process, name):
    # The second of three steps, from t = 2/3 to 1/3, of three states.
    class Second(Steps):
        def __iter__(self):
            return iter([(2 / 3, 1 / 3)])

    torch.manual_seed(0)
    x = torch.tensor([[0, 3, 1]]).repeat(ROWS, 1)
    out = WAYS[process][name](Fixed(), x, Second(3, 1))
    kind = {"absorbing": Absorbing, "uniform": Uniform}[process]
    diffusion = Diffusion(kind(K), LogLinear(1e-12))
    logits, t = Fixed()(x[:1]).logits.double(), torch.tensor([2 / 3])
    if process == "absorbing":
        log_p = Subs().to_log_conditional(logits, diffusion, x[:1], t)
    else:  # Duo's network takes the place of x_0
        log_p = GivenOthers().to_log_conditional(logits, diffusion, x[:1], t)
    law = Ancestral().rule(Prediction(log_p), diffusion, x[:1], 1 / 3, 2 / 3)[0]
    counts = torch.nn.functional.one_hot(out, K).sum(0)
    spread = (ROWS * law * (1 - law)).clamp_min(0).sqrt()
    assert ((counts - ROWS * law).abs() <= 4.5 * spread + 1e-6).all()
