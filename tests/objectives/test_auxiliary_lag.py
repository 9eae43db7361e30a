"""How far an auxiliary lags behind the student, against hand-made laws."""

from __future__ import annotations

import math

import pytest
import torch

from hf_ddistill.couplings import Local
from hf_ddistill.objectives.generated import told
from hf_ddistill.objectives.log_ratio import LogRatio, auxiliary_lag
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.places import Places

DRAWN = torch.tensor([[0, 0, 1, 2]])  # of the law 1/2, 1/4, 1/4


def ratio(law):
    """An auxiliary that says one law everywhere."""
    log_p = torch.tensor(law, dtype=torch.float64).log().expand(4, 1, 3)
    where = Places.of(torch.ones(1, 4, dtype=torch.bool))
    said = Local(Prediction(log_p), where, torch.ones(1))
    none = torch.zeros(1, 4, dtype=torch.float64)
    return LogRatio(DRAWN, said, said, none, said.log_prob_of(DRAWN), none.bool())


def lag_of(said):
    return auxiliary_lag(said.auxiliary, -said.log_prob_of_auxiliary)


def test_auxiliary_that_knows_what_is_drawn_does_not_lag():
    assert float(lag_of(ratio([0.5, 0.25, 0.25]))) == pytest.approx(0, abs=1e-12)


def test_auxiliary_that_is_too_certain_lags_by_its_cross_entropy_over_its_entropy():
    law = [0.9, 0.05, 0.05]
    cross = -0.5 * math.log(0.9) - 0.5 * math.log(0.05)
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.05)
    assert float(lag_of(ratio(law))) == pytest.approx(cross - entropy)


def test_many_positions_are_looked_at_by_some_of_them(monkeypatch):
    monkeypatch.setattr("hf_ddistill.objectives.log_ratio.LOOKED_AT", 2)
    cross = -0.5 * math.log(0.5) - 0.5 * math.log(0.25)  # of the first and the third
    entropy = 1.5 * math.log(2)
    assert float(lag_of(ratio([0.5, 0.25, 0.25]))) == pytest.approx(cross - entropy)


@pytest.mark.parametrize("targets", ["soft", "squared"])
def test_laws_were_looked_up_where_a_student_drew_nothing(targets):
    shown, law = ratio([0.5, 0.25, 0.25]), torch.zeros(0, 1, 3, dtype=torch.float64)
    nowhere = Places.of(torch.zeros(1, 4, dtype=torch.bool))
    student = Local(Prediction(law), nowhere, torch.ones(1))
    lost = told(student, shown, nowhere, targets)
    torch.testing.assert_close(lost, -shown.log_prob_of_auxiliary)
