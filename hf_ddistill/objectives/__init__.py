"""What training minimises: one method, one file."""

from hf_ddistill.objectives.ecd import ECD
from hf_ddistill.objectives.law_matching import LawMatching
from hf_ddistill.objectives.nelbo import NELBO
from hf_ddistill.objectives.objective import Objective

__all__ = ["ECD", "LawMatching", "NELBO", "Objective"]
