"""What is drawn of sharpened laws: a few positions at a time, and the tokens of all at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from vocabulary import PeakBytes

from hf_ddistill.denoisers import NetworkDenoiser, Sharpened
from hf_ddistill.denoisers.composite import Composite
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.parameterizations.sharpening import sharpened
from hf_ddistill.processes import Absorbing, Hybrid, LowRank, Uniform
from hf_ddistill.samplers import (
    Ancestral,
    Canvas,
    Euler,
    FlowMatching,
    Jump,
    Psi,
    Sampler,
    ScaledEuler,
    TauLeaping,
    ThetaRK2,
    ThetaTrapezoidal,
)

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


PROCESSES = [kind.example(9) for kind in (Absorbing, Uniform, Hybrid, LowRank)]
BY_LAW = [Psi(0.5), FlowMatching(), ScaledEuler(), ThetaRK2(), ThetaTrapezoidal()]


@pytest.mark.parametrize("sampler", BY_LAW, ids=lambda each: each.id)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda each: each.id)
def test_a_step_in_pieces_draws_what_a_whole_one_draws(sampler, process, monkeypatch):
    tokens, diffusion = torch.arange(process.vocab_size) + 1.3, Diffusion(process)
    try:
        sampler.check(diffusion)
    except ValueError:
        pytest.skip("not defined under this process")

    def network(x_t, t):
        return 3 * torch.sin((x_t + 1).cumsum(-1)[..., None] * tokens + t[:, None, None])

    denoiser = NetworkDenoiser(network, diffusion, Conditional())
    x_t = diffusion.prior((3, 7), torch.Generator().manual_seed(3))
    by_row = torch.tensor([0.2, 0.5, 0.4]), torch.tensor([0.4, 0.9, 1.0])
    drawn = []
    for some in (25, 2**30):  # two positions, which end within a row; and all
        monkeypatch.setattr("hf_ddistill.parameterizations.prediction.SOME", some)
        for s, t in ((0.3, 0.8), by_row, (0.0, 0.4)):
            generator = torch.Generator().manual_seed(5)
            drawn.append(sampler.step(denoiser, x_t, s, t, generator))
    assert torch.equal(torch.stack(drawn[:3]), torch.stack(drawn[3:]))
    assert any((x != x_t).any() for x in drawn)


#: Beside those that are held to 2: what two laws are needed for at a time, and a little; what the
#: teacher and the draft say behind each of 8 drafts of a row, which no length makes more.
MORE = {"theta_rk2": 2.6, "theta_trapezoidal": 2.6, "speculative": 2.6}


@pytest.mark.slow
@pytest.mark.parametrize("process", [Absorbing, Uniform, partial(Hybrid, uniform=0.4)])
def test_a_step_of_any_sampler_makes_two_tensors_of_the_size_of_all_logits(process):
    size, length = 151_936, 64
    torch.manual_seed(0)
    dims = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "cond_dim": 8}
    config = DDiTConfig(vocab_size=size, max_position_embeddings=length, **dims)
    diffusion = Diffusion(process(size))
    network = as_denoiser(DDiTForDiscreteDiffusion(config).eval(), diffusion)
    found = {}
    for name, kind in Sampler.registry.items():
        try:
            kind().check(diffusion)
        except ValueError:
            continue
        with PeakBytes() as alive:
            kind().sample(network, Canvas.empty((1, length)), 2, torch.Generator().manual_seed(1))
        found[name] = round(alive.peak / (4 * length * size), 2)
    print(diffusion.process.id, found)  # shown with -rP
    assert len(found) > 10
    assert not {name: peak for name, peak in found.items() if not 0.3 < peak < MORE.get(name, 2.0)}


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
