"""Draws are the inverse of the cumulative law in float64, at any vocabulary, and lose no tail."""

from __future__ import annotations

import math

import pytest
import torch
from recording_device import RecordingDevice
from vocabulary import PeakBytes

from hf_ddistill.linalg import asked_at_the_end, categorical, categorical_of_logs, require
from hf_ddistill.linalg.draw import SMALL

SIZES = [2, SMALL, SMALL + 1, 1000, 2**12, 5003]


def uneven(size, rows=40):
    """Laws whose probabilities span ten decades, some of them 0."""
    generator = torch.Generator().manual_seed(size)
    logs = 5 * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    gone = torch.rand(rows, size, generator=generator) < 0.2
    gone[:, 1] = False
    return logs.masked_fill(gone, -torch.inf).softmax(-1)


@pytest.mark.parametrize("size", SIZES)
def test_a_number_draws_the_token_in_whose_share_it_lies(size):
    law = uneven(size)
    end = law.cumsum(-1)
    # Middles of the shares of forty tokens, wide enough to be told apart in float64.
    wide = law > 1e-12
    tokens = torch.multinomial(wide.double(), 1, generator=torch.Generator().manual_seed(0))
    share = law.gather(-1, tokens)
    middles = ((end.gather(-1, tokens) - share / 2) / end[:, -1:])[:, 0]
    assert torch.equal(categorical(law, noise=middles), tokens[:, 0])
    assert torch.equal(categorical_of_logs(law.log(), noise=middles), tokens[:, 0])
    assert torch.equal(categorical(7 * law, noise=middles), tokens[:, 0])


@pytest.mark.parametrize(
    "draw", [categorical, lambda p, noise: categorical_of_logs(p.log(), noise=noise)]
)
@pytest.mark.parametrize("size", SIZES)
def test_the_ends_never_draw_a_token_without_mass(size, draw):
    probs = torch.zeros(2, size, dtype=torch.float64)
    probs[:, [size // 2, size - 2]] = torch.tensor([0.3, 0.1], dtype=torch.float64)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    expected = sorted([size // 2, size - 2])
    assert categorical(probs, noise=ends).tolist() == expected
    assert categorical_of_logs(probs.log(), noise=ends).tolist() == expected


@pytest.mark.parametrize("size", [5, 512])
def test_a_step_that_draws_nowhere_draws_nothing(size):
    """Of a short row few positions are drawn in a step, and sometimes none of the batch."""
    log_probs = torch.zeros(0, 1, size)
    assert categorical_of_logs(log_probs, noise=torch.zeros(0, 1)).shape == (0, 1)
    assert categorical(log_probs.exp(), torch.Generator()).shape == (0, 1)


def test_no_second_tensor_of_the_size_of_the_laws_is_made():
    logs = torch.randn(32, 2**16).log_softmax(-1)
    with PeakBytes() as watch:
        categorical_of_logs(logs)
    assert watch.peak <= 1.6 * logs.nbytes  # which are counted, being looked at


def test_rare_tokens_keep_their_share_where_float32_takes_most_of_it():
    """One token has .999 and fifty thousand have 2e-8 each: .001 together."""
    rare, each = 50_000, 2e-8
    probs = torch.full((rare + 1,), each, dtype=torch.float64)
    probs[0] = 1 - rare * each

    # Float32 sums do not tell most of the rare tokens apart: they are never drawn.
    steps = probs.float().cumsum(-1).diff()
    assert (steps > 0).double().mean() < 0.5
    # Float32 Gumbel noise, -log(-log(u)), has a largest value. With u = 1 - j / 2^24 for the best
    # of the rare ones and the exact law for the frequent one, they win this often:
    j = torch.arange(1, 200_000)
    noise = -(-(1 - j * 2.0**-24).float().log()).log()
    frequent = torch.arange(0.5, 1e5) / 1e5
    needed = -(-frequent.log()).log() + math.log(probs[0]) - math.log(each)
    above = torch.searchsorted(-noise, -needed.float())
    share = float(1 - ((1 - above * 2.0**-24).double() ** rare).mean())
    assert share < 0.25 * rare * each

    # Ours: each of them by its own number, from laws kept in float64 and in float32.
    some = torch.arange(1, rare, 997)
    middles = probs.cumsum(-1)[some] - each / 2
    assert torch.equal(categorical(probs.expand(len(some), -1), noise=middles), some)
    laws = probs.float().expand(len(some), -1)
    drawn = categorical_of_logs(laws.log(), noise=middles)
    exact = torch.searchsorted(laws[0].double().cumsum(-1), middles * laws[0].double().sum())
    assert (drawn - exact).abs().max() <= 5  # a share is as right as float32 is: 1e-7 of all
    assert float((drawn > 0).double().mean()) == 1


def test_a_device_is_asked_once_whether_all_laws_were_laws():
    recorder = RecordingDevice()
    with recorder:
        law = torch.full((2, 3, 5), 0.2).to(recorder.device)
        recorder.clear()
        with asked_at_the_end():
            for _ in range(3):
                categorical(law)
            assert not recorder.reads
        assert recorder.reads.total() == 1, recorder.report()


def test_a_bad_law_on_a_device_is_an_error_when_all_are_asked_for():
    passed = []
    with RecordingDevice() as recorder, pytest.raises(ValueError, match="1 of 2 positions"):
        law = torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]).to(recorder.device)
        with asked_at_the_end():
            categorical(law.nan_to_num())
            categorical(law)
            passed.append(True)
    assert passed


def test_on_the_cpu_nothing_is_put_off():
    with asked_at_the_end(), pytest.raises(ValueError, match="2 of 3"):
        require(torch.tensor([True, False, False]), lambda wrong, total: f"{wrong} of {total}")
        raise AssertionError("not reached")
