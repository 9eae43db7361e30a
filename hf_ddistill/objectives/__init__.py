"""What training minimises: one method, one file."""

from hf_ddistill.objectives.acceptance import Acceptance
from hf_ddistill.objectives.alpha import Alpha
from hf_ddistill.objectives.blocks.bd3lm import BD3LM
from hf_ddistill.objectives.blocks.block_acceptance import BlockAcceptance
from hf_ddistill.objectives.blocks.block_law_matching import BlockLawMatching
from hf_ddistill.objectives.blocks.causal_law_matching import CausalLawMatching
from hf_ddistill.objectives.blocks.cdlm import CDLM
from hf_ddistill.objectives.blocks.d2f import D2F
from hf_ddistill.objectives.blocks.dparallel import DParallel
from hf_ddistill.objectives.blocks.opdlm import OPDLM
from hf_ddistill.objectives.blocks.outcome_reward import OutcomeReward
from hf_ddistill.objectives.blocks.pseudo_trajectory import PseudoTrajectory
from hf_ddistill.objectives.blocks.t3d import T3D
from hf_ddistill.objectives.dcd import DCD
from hf_ddistill.objectives.di4c import Di4C
from hf_ddistill.objectives.didi import DiDi
from hf_ddistill.objectives.distribution_matching import DistributionMatching
from hf_ddistill.objectives.ecd import ECD
from hf_ddistill.objectives.fs_dfm import FSDFM
from hf_ddistill.objectives.imdm import IMDM
from hf_ddistill.objectives.law_matching import LawMatching
from hf_ddistill.objectives.lsd import LSD
from hf_ddistill.objectives.mcd import MCD
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.nelbo import NELBO
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.redi import ReDi
from hf_ddistill.objectives.reinforce_dmd import ReinforceDMD
from hf_ddistill.objectives.representation_mmd import RepresentationMMD
from hf_ddistill.objectives.reranked import Reranked
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.objectives.sdtt import SDTT
from hf_ddistill.objectives.simplex_dmd import SimplexDMD

__all__ = [
    "Acceptance",
    "Alpha",
    "BD3LM",
    "BlockAcceptance",
    "BlockLawMatching",
    "OPDLM",
    "CDLM",
    "CausalLawMatching",
    "D2F",
    "DCD",
    "DParallel",
    "Di4C",
    "DiDi",
    "DistributionMatching",
    "ECD",
    "FSDFM",
    "Frozen",
    "IMDM",
    "LSD",
    "LawMatching",
    "MCD",
    "NELBO",
    "Networks",
    "Objective",
    "OutcomeReward",
    "PseudoTrajectory",
    "ReDi",
    "ReinforceDMD",
    "RepresentationMMD",
    "Reranked",
    "Rollouts",
    "SimplexDMD",
    "SDTT",
    "T3D",
    "Trained",
]
