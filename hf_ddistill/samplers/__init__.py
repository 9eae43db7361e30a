"""How x_0 is drawn from a denoiser in a few calls: one step rule, with its grid and its settings, a
file; `Sampler.sample` is the loop that all of them share."""

from hf_ddistill.samplers.analytic import Analytic
from hf_ddistill.samplers.ancestral import Ancestral
from hf_ddistill.samplers.canvas import Canvas
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.euler import Euler
from hf_ddistill.samplers.first_hitting import FirstHitting
from hf_ddistill.samplers.flow_matching import FlowMatching
from hf_ddistill.samplers.given_times import GivenTimes
from hf_ddistill.samplers.greedy_tail import GreedyTail
from hf_ddistill.samplers.grid import step_grid
from hf_ddistill.samplers.holding import Holding
from hf_ddistill.samplers.jump import Jump
from hf_ddistill.samplers.predictor_corrector import PredictorCorrector
from hf_ddistill.samplers.psi import Psi
from hf_ddistill.samplers.remdm import ReMDM
from hf_ddistill.samplers.remdm_confidence import ReMDMConfidence
from hf_ddistill.samplers.remdm_loop import ReMDMLoop
from hf_ddistill.samplers.sampler import Sampler, look
from hf_ddistill.samplers.scaled_euler import ScaledEuler
from hf_ddistill.samplers.speculative import Speculated, Speculative, speculate
from hf_ddistill.samplers.step_sized import StepSized, size_code
from hf_ddistill.samplers.tau_leaping import TauLeaping
from hf_ddistill.samplers.theta import ThetaRK2, ThetaTrapezoidal
from hf_ddistill.samplers.uniformisation import Uniformisation
from hf_ddistill.samplers.unmasking import UnmaskingSampler
from hf_ddistill.samplers.walk import Progress, Reached, walk

__all__ = [
    "Analytic",
    "Ancestral",
    "Canvas",
    "Chances",
    "Euler",
    "FirstHitting",
    "FlowMatching",
    "GivenTimes",
    "GreedyTail",
    "Holding",
    "Jump",
    "PredictorCorrector",
    "Progress",
    "Psi",
    "ReMDM",
    "ReMDMConfidence",
    "ReMDMLoop",
    "Reached",
    "Sampler",
    "ScaledEuler",
    "Speculated",
    "Speculative",
    "StepSized",
    "TauLeaping",
    "ThetaRK2",
    "ThetaTrapezoidal",
    "Uniformisation",
    "UnmaskingSampler",
    "look",
    "size_code",
    "speculate",
    "step_grid",
    "walk",
]
