"""From a network's output to log p(x_0 | x_t), to the concrete score and back: one file for each
way to read an output."""

from hf_ddistill.parameterizations.changed import Changed
from hf_ddistill.parameterizations.conditional import Conditional
from hf_ddistill.parameterizations.given_others import GivenOthers
from hf_ddistill.parameterizations.normalised import log_prob_of, normalised, stand_in
from hf_ddistill.parameterizations.parameterization import Parameterization, carried_over
from hf_ddistill.parameterizations.prediction import Prediction, recover
from hf_ddistill.parameterizations.score import Score
from hf_ddistill.parameterizations.shifted import Shifted
from hf_ddistill.parameterizations.subs import Subs

__all__ = [
    "Changed",
    "Conditional",
    "GivenOthers",
    "Parameterization",
    "Prediction",
    "Score",
    "Shifted",
    "Subs",
    "carried_over",
    "log_prob_of",
    "normalised",
    "recover",
    "stand_in",
]
