"""Where tokens go as they are noised: one file for each kind of rate matrix."""

from hf_ddistill.processes.absorbing import Absorbing
from hf_ddistill.processes.general import General
from hf_ddistill.processes.hybrid import Hybrid
from hf_ddistill.processes.kronecker import Kronecker
from hf_ddistill.processes.low_rank import LowRank
from hf_ddistill.processes.ordinal import Ordinal
from hf_ddistill.processes.process import Process
from hf_ddistill.processes.uniform import Uniform

__all__ = [
    "Absorbing",
    "General",
    "Hybrid",
    "Kronecker",
    "LowRank",
    "Ordinal",
    "Process",
    "Uniform",
]
