"""The time that a network reads is data: t, the total noise, or none; who reads none is not told
one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from block_models import K as WORDS
from block_models import block_model
from small_laws import FLIPS, MASKS, step_of
from training_runs import tiny

from hf_ddistill.denoisers import Ensemble, Guided, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser
from hf_ddistill.parameterizations import GivenOthers, Score, Subs
from hf_ddistill.pipelines.network import denoiser_on
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import Cosine

X = torch.tensor([[0, 2, 1], [2, 2, 2]])
T = torch.tensor([0.25, 0.5], dtype=torch.float64)
WHERE = X == 2


def reader(seen, diffusion=MASKS, reading=None, **settings):
    """A denoiser whose network keeps the times that it is given."""

    def network(x_t, time, at=None):
        seen.append(time)
        logits = torch.zeros(*x_t.shape, diffusion.vocab_size)
        return logits if at is None else logits.flatten(0, 1)[at]

    return NetworkDenoiser(network, diffusion, reading or Subs(), **settings)


def test_network_is_given_the_time_that_it_reads():
    for reads_time, expected in (("t", T), ("sigma", MASKS.schedule.sigma(T)), (None, None)):
        seen = []
        denoiser = reader(seen, reads_time=reads_time)
        denoiser(X, T)
        denoiser.at(X, T, WHERE)
        assert all(time is expected is None or torch.equal(time, expected) for time in seen), (
            reads_time
        )
    with pytest.raises(ValueError, match="reads 't', 'sigma' or None, got 'clock'"):
        reader([], reads_time="clock")


@pytest.mark.parametrize("reads_time", ["t", "sigma"])
def test_time_that_is_read_and_not_given_is_one_clear_error(reads_time):
    denoiser = reader([], reads_time=reads_time)
    message = "'function' reads the time, and none is given"
    for asked in (denoiser, Guided(denoiser, 1.0), Ensemble((denoiser,))):
        assert asked.reads_time == reads_time and asked.needs_time
        given = {"class_labels": None} if isinstance(asked, Guided) else {}
        with pytest.raises(ValueError, match=message):
            asked(X, **given)
        with pytest.raises(ValueError, match=message):
            asked.at(X, None, WHERE, **given)


def test_network_without_a_time_is_called_without_one():
    seen = []
    denoiser = reader(seen, reads_time=None)
    whole = denoiser(X).log_conditional
    torch.testing.assert_close(denoiser.at(X, None, WHERE).log_conditional[:, 0], whole[WHERE])
    assert seen == [None, None] and not denoiser.needs_time
    assert step_of(MASKS, denoiser, rows=2).look(denoiser, X, None).t is None


@pytest.mark.parametrize("reading", [GivenOthers(), Score()], ids=lambda reading: reading.id)
def test_reading_that_depends_on_the_time_needs_it_also_where_the_network_does_not(reading):
    denoiser = reader([], FLIPS, reading, reads_time=None)
    assert denoiser.reads_time is None and denoiser.needs_time
    denoiser(X % 2, T)
    with pytest.raises(ValueError, match=f"'{reading.id}' reads the time"):
        denoiser(X % 2)


def test_models_say_what_they_read():
    bare = as_denoiser(tiny())
    assert bare.reads_time is None
    assert bare(torch.full((1, 64), 2)).log_conditional.shape == (1, 64, 3)
    timed = as_denoiser(tiny(time_conditioning=True))
    assert timed.reads_time == "t"
    with pytest.raises(ValueError, match="'DDiTForDiscreteDiffusion' reads the time"):
        timed(torch.full((1, 64), 2))
    blocks = as_denoiser(block_model())
    assert blocks.reads_time is None
    assert blocks(torch.zeros(1, 8, dtype=torch.int64)).log_conditional.shape == (1, 8, WORDS)


class Clocked(torch.nn.Module):
    """A model whose configuration says that it reads the total noise."""

    def __init__(self, **said):
        super().__init__()
        about = {"vocab_size": 3, "mask_token_id": 2, "discrete_diffusion": None}
        self.config = SimpleNamespace(**about | said)
        self.seen = []

    def forward(self, input_ids, timesteps=None):
        self.seen.append(timesteps)
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 3))


def test_model_that_reads_the_total_noise_goes_with_any_schedule():
    model, other = Clocked(reads_time="sigma"), Diffusion(Absorbing(3), Cosine())
    denoiser_on(model, other)(X, T)
    torch.testing.assert_close(model.seen[0], other.schedule.sigma(T).float())
    with pytest.raises(ValueError, match="looks at the time and was trained for the schedule"):
        denoiser_on(Clocked(), other)
    silent = Clocked(reads_time=None)
    denoiser_on(silent, other)(X, T)
    assert silent.seen == [None]
