"""DCD: discrete consistency distillation of Duo, on pairs that share one Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_ddistill.configurable import read_members
from hf_ddistill.couplings import GaussianDuality, StepTimes, TimeSampler, TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.divergences import Divergence, ReverseKL
from hf_ddistill.objectives.defined_on import require_uniform
from hf_ddistill.objectives.ecd import ECD
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.weightings import Even, Weighting
from hf_ddistill.shapes import Scalar


@dataclass(frozen=True)
class DCD(Objective):
    """E sum_i D(p_teacher(x_0^i | x_s), p_student(x_0^i | x_t)), x_t and x_s from one Gaussian.

    It is `ecd` with the coupling "gaussian_duality": x_t is no state that x_s was noised to, but
    the same noise heard louder. So x_0 and x_t are not independent given x_s, and the mean of the
    targets at an x_t is not the teacher's conditional there: what the shared noise tells of the end
    of the trajectory is what the student is taught.

    It runs in rounds (`rounds=`): after each the running weights are the teacher (with
    `ema_decay=0` as they are, the paper's way), and the step, 1 / k for a student of k calls,
    doubles. The paper's 2^n / 512 over five rounds is `student_steps=32, rounds=5`. Its samples end
    with the likeliest tokens: the sampler "greedy_tail", which costs entropy.

    References: Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892, Algorithm 2.

    Args:
        divergence: D; the paper's is the reverse KL.
        times: "step_times": the steps that the sampler makes; "gaussian_times": as long ones in the
            Gaussian's clock, as in the paper, whose `gamma=(-4, -1)` is for 50,257 tokens. On exact
            patches of digits the first is far better (`docs/methods.md`).
        weighting: how much a time and a token count, as in `ecd`.
    """

    divergence: Divergence | Mapping[str, Any] | str = field(default_factory=ReverseKL)
    times: TimeSampler | Mapping[str, Any] | str = field(default_factory=StepTimes)
    weighting: Weighting | Mapping[str, Any] | str = field(default_factory=Even)
    over: ClassVar[str] = "rows"
    matches_conditionals: ClassVar[bool] = True
    citation: ClassVar[str] = "Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892"
    measured: ClassVar[str] = (
        "exact digits, uniform noise after 1,200 passes, TV .6253 / .1745 / .0856 at 1 / 2 / "
        "4 calls"
    )

    def __post_init__(self) -> None:
        read_members(self, divergence=Divergence, times=TimeSampler, weighting=Weighting)

    def for_student(self, student: Denoiser) -> DCD:
        require_uniform(self.id, student.diffusion, "'mcd' or 'sdtt' (masks) or 'ecd' (any)")
        return self

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        return ECD(self.divergence, GaussianDuality(), self.times, weighting=self.weighting)(step)
