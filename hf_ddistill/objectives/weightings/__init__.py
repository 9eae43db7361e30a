"""How much a position counts in a loss of probabilities: one weighting, one file."""

from hf_ddistill.objectives.weightings.certainty import Certainty
from hf_ddistill.objectives.weightings.entropy import Entropy
from hf_ddistill.objectives.weightings.even import Even
from hf_ddistill.objectives.weightings.learned import Learned
from hf_ddistill.objectives.weightings.noise_level import NoiseLevel
from hf_ddistill.objectives.weightings.relative_confidence import RelativeConfidence
from hf_ddistill.objectives.weightings.weighting import Weighed, Weighting

__all__ = [
    "Certainty",
    "Entropy",
    "Even",
    "Learned",
    "NoiseLevel",
    "RelativeConfidence",
    "Weighed",
    "Weighting",
]
