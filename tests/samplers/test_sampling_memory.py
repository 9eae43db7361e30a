"""What is drawn of sharpened laws: a few positions at a time, and the tokens of all at once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from vocabulary import PeakBytes

from hf_ddistill.denoisers import NetworkDenoiser, Sharpened
from hf_ddistill.denoisers.composite import Composite
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.parameterizations.sharpening import sharpened
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.samplers import Ancestral, Canvas, Euler, Jump, TauLeaping

SHARPENED = {"warm": (0.7,), "top-k": (1.3, 4), "top-p": (1.0, None, 0.8), "cold": (0.0,)}
SAMPLERS = [Ancestral(), Euler(), TauLeaping(), Jump()]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda each: each.id)


@dataclass(frozen=True)
class AtOnce(Composite):
    """Sharpened as a whole."""

    denoiser: NetworkDenoiser
    settings: tuple

    def combine(self, ask, condition):
        said = ask(self.denoiser, condition).log_conditional
        return Prediction(sharpened(said.double(), *self.settings))


@each_sampler
@pytest.mark.parametrize("process", [Uniform(9), Hybrid(10, 0.4)], ids=lambda each: each.id)
@pytest.mark.parametrize("name", SHARPENED)
def test_tokens_are_those_of_a_law_that_is_sharpened_as_a_whole(
    name, process, sampler, monkeypatch
):
    # Pieces of two positions, which end within a row.
    monkeypatch.setattr("hf_ddistill.parameterizations.prediction.SOME", 25)
    tokens = torch.arange(process.vocab_size) + 1.3

    def network(x_t, t):
        return 3 * torch.sin((x_t + 1).cumsum(-1)[..., None] * tokens + t[:, None, None]).float()

    denoiser = NetworkDenoiser(network, Diffusion(process), Conditional())
    drawn = [
        sampler.sample(each, Canvas.empty((3, 7)), 4, torch.Generator().manual_seed(5))
        for each in (
            Sharpened(denoiser, *SHARPENED[name]),
            AtOnce(denoiser, SHARPENED[name]),
        )
    ]
    assert torch.equal(*drawn)
    assert len(drawn[0].unique()) > 2


@pytest.mark.slow
@each_sampler
@pytest.mark.parametrize("process", [Absorbing, Uniform])
def test_a_sharpened_step_makes_two_tensors_of_the_size_of_all_logits(process, sampler):
    size, length = 151_936, 64
    torch.manual_seed(0)
    dims = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "cond_dim": 8}
    config = DDiTConfig(vocab_size=size, max_position_embeddings=length, **dims)
    network = as_denoiser(DDiTForDiscreteDiffusion(config).eval(), Diffusion(process(size)))
    calls = 1 if sampler.id in ("ancestral", "jump") else 2
    for settings in ((0.7,), (1.0, None, 0.9)):
        denoiser = Sharpened(network, *settings)
        with PeakBytes() as alive:
            sampler.sample(
                denoiser, Canvas.empty((1, length)), calls, torch.Generator().manual_seed(1)
            )
        found = alive.peak / (4 * length * size)
        print(f"{process.id}, {sampler.id}, {settings}: {found:.2f}")  # shown with -rP
        assert 0.3 < found < 2
