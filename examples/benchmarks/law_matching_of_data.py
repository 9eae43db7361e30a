"""Law matching whose calls are at states of the data, as D-MMD's are: an experiment of
`scoreboard_text.py` and `scoreboard_exact.py`."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.couplings import TrainingStep, call_numbers, log_variety
from hf_ddistill.couplings.rollouts import Rollout
from hf_ddistill.couplings.step_back import step_of
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.generated import drawn
from hf_ddistill.objectives.law_matching import LawMatching


@dataclass(frozen=True)
class LawMatchingOfData(LawMatching):
    """In a share of the rows, the call that a row stops at is at x_0 noised up to the time of that
    call, in the place of what the row's earlier calls left, which are not made.

    The first call is at noise in any case. The fixed point is that of law matching, whatever law
    the data are of: what a student of the teacher's laws draws at any state is so distributed,
    given whatever a view shows of it, as the teacher says there.

    Args:
        horizon: "call", "step" or "bridge".
        data: the share.
    """

    horizon: str = "call"
    data: float = 1.0
    id: ClassVar[str] = "law_matching_of_data"

    def _rollout(self, step: TrainingStep) -> Rollout:
        calls = call_numbers(step, self.steps)
        stop = (uniform_noise(calls.shape, step.generator, "cpu") * calls).long().minimum(calls - 1)
        of_data = (uniform_noise(calls.shape, step.generator, "cpu") < self.data) & (stop > 0)
        t = 1 - stop / calls.double()
        x = step.given(step.diffusion.prior(step.x_0.shape, step.generator))
        with torch.no_grad():
            for call in range(int(stop.masked_fill(of_data, 0).max())):
                rows = (~of_data & (stop > call)).nonzero()[:, 0]
                now, then = (1 - (call + more) / calls[rows].double() for more in (0, 1))
                part = step.rows(rows), step.student, x[rows]
                x = x.index_copy(0, rows, step_of(*part, then, now, self.sampler))
        x = torch.where(of_data[:, None], step.noised(t), x)
        last = step.look(step.student, x, t)
        x_0 = drawn(step, last, x)
        log_variety(step, x_0)
        none = torch.zeros(len(x), 0, dtype=torch.float64)
        return Rollout(x_0, last, none, calls, stop, x)
