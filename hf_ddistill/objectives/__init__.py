"""What training minimises: one method, one file."""

from hf_ddistill.objectives.bd3lm import BD3LM
from hf_ddistill.objectives.block_law_matching import BlockLawMatching
from hf_ddistill.objectives.causal_law_matching import CausalLawMatching
from hf_ddistill.objectives.cdlm import CDLM
from hf_ddistill.objectives.d2f import D2F
from hf_ddistill.objectives.dparallel import DParallel
from hf_ddistill.objectives.ecd import ECD
from hf_ddistill.objectives.law_matching import LawMatching
from hf_ddistill.objectives.nelbo import NELBO
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.opdlm import OPDLM
from hf_ddistill.objectives.outcome_reward import OutcomeReward
from hf_ddistill.objectives.pseudo_trajectory import PseudoTrajectory
from hf_ddistill.objectives.t3d import T3D

__all__ = [
    "BD3LM",
    "BlockLawMatching",
    "OPDLM",
    "CDLM",
    "CausalLawMatching",
    "D2F",
    "DParallel",
    "ECD",
    "LawMatching",
    "NELBO",
    "Objective",
    "OutcomeReward",
    "PseudoTrajectory",
    "T3D",
]
