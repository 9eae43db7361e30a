"""How the states that an objective looks at are drawn: their times, and pairs (x_t, x_s) with s <
t."""

from hf_ddistill.couplings.adaptive_times import AdaptiveTimes
from hf_ddistill.couplings.coupling import Coupling, Past
from hf_ddistill.couplings.forward import ForwardPair
from hf_ddistill.couplings.gaussian_duality import GaussianDuality, GaussianTimes
from hf_ddistill.couplings.interval_times import IntervalTimes
from hf_ddistill.couplings.masked_duality import MaskedDuality
from hf_ddistill.couplings.memory import Log, Memory
from hf_ddistill.couplings.rollouts import TRAINED_STEPS, Rollout, call_numbers, roll_out
from hf_ddistill.couplings.step_back import step_back
from hf_ddistill.couplings.step_times import StepTimes
from hf_ddistill.couplings.student_step import StudentStep
from hf_ddistill.couplings.teacher_steps import TeacherSteps
from hf_ddistill.couplings.times import GridTimes, TimeSampler, UniformTimes
from hf_ddistill.couplings.training_step import (
    Local,
    TrainingStep,
    histogram_entropy,
    log_variety,
)
from hf_ddistill.couplings.trajectories import Trajectory, calls_in_blocks, random_masks

__all__ = [
    "TRAINED_STEPS",
    "AdaptiveTimes",
    "Coupling",
    "ForwardPair",
    "GaussianDuality",
    "GaussianTimes",
    "GridTimes",
    "IntervalTimes",
    "Local",
    "Log",
    "MaskedDuality",
    "Memory",
    "Past",
    "Rollout",
    "StepTimes",
    "StudentStep",
    "TeacherSteps",
    "TimeSampler",
    "TrainingStep",
    "Trajectory",
    "UniformTimes",
    "call_numbers",
    "calls_in_blocks",
    "histogram_entropy",
    "random_masks",
    "log_variety",
    "roll_out",
    "step_back",
]
