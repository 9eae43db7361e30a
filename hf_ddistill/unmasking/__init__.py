"""Which masked positions a call of a diffusion language model decides: one rule, one file."""

from hf_ddistill.unmasking.dynamic import Threshold
from hf_ddistill.unmasking.entropy_bounded import EntropyBounded
from hf_ddistill.unmasking.entropy_threshold import EntropyThreshold
from hf_ddistill.unmasking.factor import Factor
from hf_ddistill.unmasking.klass import KLASS
from hf_ddistill.unmasking.plackett_luce import PlackettLuce, set_log_probability
from hf_ddistill.unmasking.prophet import Prophet
from hf_ddistill.unmasking.static import Static
from hf_ddistill.unmasking.unmasking import Draft, Unmasking, any_positions, largest

__all__ = [
    "Draft",
    "EntropyBounded",
    "EntropyThreshold",
    "Factor",
    "KLASS",
    "PlackettLuce",
    "Prophet",
    "Static",
    "Threshold",
    "Unmasking",
    "any_positions",
    "largest",
    "set_log_probability",
]
