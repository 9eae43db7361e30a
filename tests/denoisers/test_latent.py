"""The noise that a network takes: its shapes, when it is drawn, what one per sequence can do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_laws import FLIPS, MASKS, L
from training_runs import differing, distilling, matching, tiny, weights

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.laboratory import clean_sequences, terminal_law
from hf_ddistill.linalg import RowStreams
from hf_ddistill.models import as_denoiser
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.samplers import Ancestral, Canvas

PER_SEQUENCE = Latent(2, per="sequence")


@pytest.mark.parametrize("latent", [Latent(2), PER_SEQUENCE], ids=lambda latent: latent.per)
def test_noise_of_a_row_is_that_of_its_own_generator(latent):
    x_t = torch.tensor([[0, 1, 2], [2, 2, 2], [2, 1, 2]])

    def generators(rows):
        return [torch.Generator().manual_seed(row) for row in rows]

    for of in (generators, RowStreams):
        whole = latent.draw(x_t, MASKS, of([0, 1, 2]))
        assert whole.shape == ((3, 3, 2) if latent.per == "position" else (3, 2))
        assert torch.equal(whole[[2, 0]], latent.draw(x_t[[2, 0]], MASKS, of([2, 0])))


def test_noise_is_drawn_anew_for_each_call_and_certain_positions_get_none():
    x_t = torch.tensor([[0, 2, 1]]).expand(4, 3)
    denoiser = NetworkDenoiser(lambda *_, **__: None, MASKS, Subs(), Latent(2))
    generator = torch.Generator().manual_seed(0)
    one, other = (denoiser.fresh_noise(x_t, generator)["noise"] for _ in range(2))
    assert not torch.equal(one, other)
    assert not one[:, [0, 2]].any() and bool((one[:, 1] != 0).all())
    assert replace(denoiser, latent=None).fresh_noise(x_t, generator) == {}


@pytest.mark.parametrize("given", [{"dim": 0}, {"dim": 2, "per": "token"}], ids=str)
def test_latent_that_means_nothing_is_refused(given):
    with pytest.raises(ValueError, match="A latent"):
        Latent(**given)


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
def test_one_number_per_sequence_correlates_what_a_single_call_draws(diffusion):
    def network(x_t, t, noise):
        sign = torch.sign(noise)[:, :, None].expand(*x_t.shape, 1)
        none = torch.full((*x_t.shape, diffusion.vocab_size - 2), -1e4)
        return torch.cat([20 * sign, -20 * sign, none], -1)

    reading = Subs() if diffusion.reveals else Conditional()
    denoiser = NetworkDenoiser(network, diffusion, reading, Latent(1, per="sequence"))
    generator = torch.Generator().manual_seed(0)
    law = terminal_law(denoiser, diffusion, L, [1.0, 0.0], draws=2**12, generator=generator)
    same = (clean_sequences(diffusion, L).float().std(1) == 0).double()
    torch.testing.assert_close(law, same / 2, atol=0.03, rtol=0)


def test_student_with_a_latent_per_sequence_is_trained_and_sampled(tmp_path):
    student = tiny(noise_dim=3, noise_per="sequence")
    with pytest.raises(ValueError, match=r"must be \(B, noise_dim\) = \(2, 3\)"):
        student(torch.zeros(2, 64, dtype=torch.int64), noise=torch.zeros(2, 64, 3))
    with pytest.raises(ValueError, match="noise_per='row' must be 'position' or 'sequence'"):
        tiny(noise_per="row")
    assert as_denoiser(student).latent == Latent(3, per="sequence")
    before = weights(student)
    settings = {"objective": matching(), "collapse_share": 0, "learning_rate": 0.01}
    trainer = distilling(tmp_path, tiny(), model=student, **settings)
    trainer.train()
    assert "model.noise_proj.weight" in differing(weights(student), before)
    assert trainer.sample(2, 2).shape == (2, 64)


def test_noise_that_is_given_is_held_at_every_step_and_fresh_noise_is_not():
    seen = []

    def network(x_t, t, noise):
        seen.append(noise)
        return torch.zeros(*x_t.shape, 3)

    denoiser = NetworkDenoiser(network, MASKS, Subs(), PER_SEQUENCE)
    canvas = Canvas.empty((4, 12))
    Ancestral().sample(denoiser, canvas, 3)
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])
    plan = PER_SEQUENCE.draw(canvas.tokens, MASKS)
    Ancestral().sample(denoiser, canvas, 3, noise=plan)
    assert len(seen) == 6 and all(torch.equal(noise, plan[: len(noise)]) for noise in seen[3:])
