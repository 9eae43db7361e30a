"""Students that share a task: each is asked for its own rows, trained at its own times."""

from __future__ import annotations

import pytest
import torch
from small_laws import FLIPS, MASKS, L, problem, step_of, table

from hf_ddistill.couplings import IntervalTimes
from hf_ddistill.denoisers import Classes, Intervals, Latent, NetworkDenoiser, Parted
from hf_ddistill.laboratory import terminal_law
from hf_ddistill.objectives import ECD
from hf_ddistill.parameterizations import Conditional, Subs


def counted(diffusion, seed):
    """An exact denoiser, and the (rows, times, labels) that it was asked for."""
    exact, seen = problem(diffusion, seed).denoiser(), []

    def network(x_t, t, class_labels=None):
        seen.append((len(x_t), t, class_labels))
        return exact(x_t, t).log_conditional

    return NetworkDenoiser(network, diffusion, Conditional()), seen


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
def test_rows_are_predicted_by_others_than_their_owners(diffusion):
    (low, seen), (high, also) = (counted(diffusion, seed) for seed in (1, 2))
    parted = Parted((low, high), Intervals((0.4,)))
    x_t = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    t = torch.tensor([0.9, 0.4, 0.41, 0.1])
    expected = torch.where(
        (t > 0.4)[:, None, None], high(x_t, t).log_conditional, low(x_t, t).log_conditional
    )
    for each in (seen, also):
        each.clear()
    torch.testing.assert_close(parted(x_t, t).log_conditional, expected)
    assert [rows for rows, *_ in seen] == [rows for rows, *_ in also] == [2]
    parted(x_t, 0.7)
    assert len(seen) == 1 and len(also) == 2


def test_one_call_of_a_sample_asks_more_than_one_of_them():
    """Two steps: the law of the second one's predictions at what the first drew."""
    (low, seen), (high, also) = (counted(MASKS, seed) for seed in (1, 1))
    grid = [1.0, 0.5, 0.0]
    law = terminal_law(Parted((low, high)), MASKS, L, grid)
    torch.testing.assert_close(law, terminal_law(low, MASKS, L, grid))
    assert also and all(float(t.min()) > 0.5 for _, t, _ in also)


def test_classes_are_predicted_by_others_than_their_owners():
    (one, seen), (other, also) = (counted(FLIPS, seed) for seed in (1, 2))
    parted = Parted((one, other), Classes(((0, 2), (1,))))
    parted(torch.zeros(3, 3, dtype=torch.int64), 0.5, class_labels=torch.tensor([2, 1, 0]))
    assert seen[0][2].tolist() == [2, 0] and also[0][2].tolist() == [1]
    with pytest.raises(ValueError, match="No student owns class 5"):
        parted(torch.zeros(1, 3, dtype=torch.int64), 0.5, class_labels=torch.tensor([5]))
    with pytest.raises(ValueError, match="need class_labels"):
        parted(torch.zeros(1, 3, dtype=torch.int64), 0.5)


def test_student_of_an_interval_is_trained_at_other_times():
    times = IntervalTimes(0.25, 0.5)
    step = step_of(MASKS, table(MASKS), rows=400)
    s, t, weight = times.draw(step)
    assert (t > 0.25).all() and (t <= 0.5).all() and (s >= 0.25).all() and (s < t).all()
    assert abs(float(t.mean()) - 0.375) < 0.01 and (weight == 1).all()
    assert ECD(times={"type": "interval_times", "low": 0.5}).times.high == 1.0
    with pytest.raises(ValueError, match="An interval has 0 <= low < high <= 1, got low=0.5"):
        IntervalTimes(0.5, 0.5)


def test_students_that_do_not_go_together_are_sampled_as_one():
    one, other = table(MASKS), table(FLIPS)
    noisy = NetworkDenoiser(one.network, MASKS, Subs(), Latent(2))
    for parts, message in (
        ((one,), "There are 1 students and 2 owners of rows"),
        ((one, other), "must share one vocabulary, got vocab_size=3 and 2"),
        ((one, noisy), "must take the same noise, got None and Latent"),
    ):
        with pytest.raises(ValueError, match=message):
            Parted(parts)
    assert Parted((noisy, noisy)).latent == Latent(2)
    with pytest.raises(ValueError, match="bounds must ascend"):
        Intervals((0.5, 0.3))
    with pytest.raises(ValueError, match="no class twice"):
        Classes(((1,), (1, 2)))
