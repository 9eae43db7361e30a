"""LSD: learnable sampler distillation; the network stays, and the numbers of its sampler learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.kinds import check_most
from hf_ddistill.linalg import categorical_of_logs, uniform_noise
from hf_ddistill.objectives.by_position import chunks
from hf_ddistill.objectives.defined_on import require_masks
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.weighted_entropy import weighted_entropy
from hf_ddistill.places import Places
from hf_ddistill.samplers import Euler, Sampler, ScaledEuler, step_grid
from hf_ddistill.shapes import Scalar, Times

#: Calls that there are numbers for.
MOST = 64
LEARNED = ("scales", "times", "powers")
#: To powers below something is left of any law.
STILL_DRAWN = 10.0


class Coefficients(nn.Module):
    """The numbers of a sampler of up to 64 calls: logarithms of factors, and of step sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(MOST))
        self.log_size = nn.Parameter(torch.zeros(MOST))

    def scales(self, calls: int) -> Tensor:
        """Factors (n,), 1 at first."""
        return self.log_scale[:calls].double().exp()

    def sizes(self, calls: int) -> Tensor:
        """Step sizes (n,) that sum to 1, alike at first."""
        return self.log_size[:calls].double().softmax(0)

    def times(self, calls: int) -> list[float]:
        """From 1 down to 0, the sizes apart."""
        ends = 1 - self.sizes(calls).detach().cumsum(0)[:-1]
        return [1.0, *ends.tolist(), 0.0]


def _coefficients(student: nn.Module, diffusion: Diffusion) -> Coefficients:
    return Coefficients()


def check_numbers(calls: int) -> None:
    """Raise if there are fewer numbers than calls."""
    if calls > MOST:
        raise ValueError(f"Objective 'lsd' has numbers for {MOST} calls, got {calls}.")


@dataclass(frozen=True)
class LSD(Objective):
    """E sum_k |s*_k - c_k s_k|^2, s_k and s*_k the scores of one network along its student's few
    steps and its teacher's many.

    Both start alike, and are compared at t_k = 1 - k / n, n the student's calls. The numbers c_k
    are the factors of the student's rates (LSD), or, with the times tau_k at which it makes its
    calls, n (tau_k - tau_(k + 1)) times the ratio of the noise's rates at tau_k and t_k (LSD+): its
    sampler is then Euler's with these numbers, "scaled_euler", which is saved with the student.
    Nothing else is trained, and the loss goes through no network.

    Both trajectories show a token by one number, as soon as it is below the share that is shown,
    and draw it by another, so that they differ in what a long step gets wrong and not by chance
    (the paper pairs them by their start alone). A factor of the last call has nothing to do.

    The authors' code multiplies log-scores by its numbers, a temperature and a factor at once, and
    trains them by an entropy that falls however large they get (`weighted_entropy`): "powers".
    Where they end then says how long they were trained, and at what rate.

    References: Fu, Guo, Liu, Learnable Sampler Distillation for Discrete Diffusion Models, 2025,
    arXiv:2509.19962.

    Args:
        teacher_steps: calls of the teacher, rounded up to a multiple of n.
        learned: "scales" (LSD), "times" (LSD+) or "powers" (the code's).

    Raises:
        ValueError: for other settings; for a process without masks, or more than 64 calls.
    """

    teacher_steps: int = 64
    learned: str = "scales"
    id: ClassVar[str] = "lsd"
    over: ClassVar[str] = "rows"
    networks: ClassVar[Networks] = {
        "teacher": Frozen(),
        "coefficients": Trained(factory=_coefficients),
    }
    sampler: ClassVar[Sampler] = ScaledEuler()
    citation: ClassVar[str] = "Fu, Guo, Liu, Learnable Sampler Distillation, 2025, arXiv:2509.19962"
    measured: ClassVar[str] = (
        "exact digits under masks after 1,500 and more passes, TV .2248 / .1158 at 2 / 4 calls"
    )

    def __post_init__(self) -> None:
        if self.teacher_steps < 1 or self.learned not in LEARNED:
            raise ValueError(
                "teacher_steps must be at least 1 and learned 'scales', 'times' or 'powers', got "
                f"teacher_steps={self.teacher_steps} and learned={self.learned!r}."
            )
        check_most(self, "teacher_steps")

    def for_student(self, student: Denoiser) -> LSD:
        require_masks(self.id, student.diffusion, "'ecd'")
        return self

    def check(self, student: Denoiser, teacher: Denoiser | None, calls: Sequence[int]) -> None:
        if len(calls) > 1:
            raise ValueError(
                f"Objective 'lsd' leaves the network as it is, so that of {len(calls)} rounds each "
                "would start from what the last one started from: leave out rounds."
            )
        check_numbers(calls[0])
        if self.learned == "powers":
            return
        if calls[0] == 1:
            raise ValueError(
                "Objective 'lsd' learns numbers of the calls before the last one, and the student "
                "has one call: give it 2 at least."
            )
        if self.teacher_steps <= calls[0]:
            raise ValueError(
                f"Objective 'lsd' compares the student's steps with shorter ones, and "
                f"teacher_steps={self.teacher_steps} are no more than its {calls[0]} calls: give "
                "more."
            )

    def fewer_calls(self, calls: int) -> tuple[int, ...]:
        return ()  # its numbers are those of so many calls

    def learned_sampler(self, networks: Mapping[str, Any], calls: int) -> Sampler:
        numbers = networks["coefficients"]
        try:
            return self._sampler(numbers, calls)
        except ValueError as error:
            raise self._ended(numbers, calls, error) from error

    def _ended(self, numbers: Coefficients, calls: int, error: ValueError) -> ValueError:
        """Of numbers that no step can be made by."""
        made = numbers.sizes(calls) if self.learned == "times" else numbers.scales(calls)
        said = ", ".join(f"{each:.3g}" for each in made.tolist())
        return ValueError(
            f"What objective 'lsd' has learned with learned={self.learned!r} ({said}) are no "
            f"numbers of a sampler any more: {error} Start again with a lower "
            "auxiliary_learning_rate, which is theirs, or for fewer steps; what was saved before "
            "is whole."
        )

    def _sampler(self, numbers: Coefficients, calls: int) -> Sampler:
        if self.learned == "times":
            return ScaledEuler((1.0,) * calls, numbers.times(calls))
        scales = numbers.scales(calls).tolist()
        if self.learned == "powers":
            return ScaledEuler((1.0,) * calls, step_grid(calls), scales)
        return ScaledEuler(scales, step_grid(calls))

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        calls, numbers = step.student_steps, step.peers["coefficients"]
        check_numbers(calls)
        self.learned_sampler(step.peers, calls)
        finer = -(-self.teacher_steps // calls)
        if self.learned == "powers":
            try:
                losses = self._by_powers(step, calls, finer)
            except ValueError as error:  # nothing is left of a law to so large a power
                if float(numbers.scales(calls).detach().max()) < STILL_DRAWN:
                    raise
                raise self._ended(numbers, calls, error) from error
            return {"coefficients": step.token_mean(torch.stack(losses).sum(0))}
        # The last call of the student is compared to nothing, and neither goes on to it.
        compared = islice(self._compared(step, calls, finer), max(calls - 1, 1))
        products = [_products(*laws) for laws in compared]
        times = self.learned_sampler(step.peers, calls).times, step_grid(calls)
        factors = self._factors(numbers, calls, step.diffusion, times)
        losses = [
            theirs - 2 * factor * both + factor**2 * ours
            for factor, (ours, both, theirs) in zip(factors[: len(products)], products, strict=True)
        ]
        return {"coefficients": step.token_mean(torch.stack(losses).mean(0))}

    def _by_powers(self, step: TrainingStep, calls: int, finer: int) -> list[Tensor]:
        """The losses (B, L) of the steps."""
        width, powers = 1 / (calls * finer), step.peers["coefficients"].scales(calls)
        return [
            weighted_entropy(*laws, step.diffusion, (max(t - width, 0.0), t), power)
            for laws, t, power in zip(
                self._compared(step, calls, finer), step_grid(calls)[:-1], powers, strict=True
            )
        ]

    def _compared(
        self, step: TrainingStep, calls: int, finer: int
    ) -> Iterator[tuple[Local, Local]]:
        """What student and teacher say at each time of an even grid; side by side, so that no more
        than two laws are there at a time."""
        sampler = self.learned_sampler(step.peers, calls)
        share = uniform_noise((*step.x_0.shape, 2), step.generator, step.x_0.device).unbind(-1)
        ours = self._trajectory(step, "student", sampler.times, sampler, share)
        fine = self._trajectory(step, "teacher", step_grid(calls * finer), Euler(), share)
        return zip(ours, islice(fine, 0, None, finer), strict=True)

    def _factors(
        self,
        numbers: Coefficients,
        calls: int,
        diffusion: Diffusion,
        times: tuple[Sequence[float], Sequence[float]],
    ) -> Tensor:
        """c_k (n,), with gradients to the numbers."""
        if self.learned == "scales":
            return numbers.scales(calls)
        own, even = (torch.tensor(each[:-1], dtype=torch.float64) for each in times)
        rates = [diffusion.pace(t) / torch.expm1(diffusion.total_noise(t)) for t in (own, even)]
        return calls * numbers.sizes(calls) * (rates[0] / rates[1]).to(numbers.log_size.device)

    @staticmethod
    def _trajectory(
        step: TrainingStep,
        name: str,
        times: Sequence[float],
        sampler: Sampler,
        share: tuple[Tensor, Tensor],
    ) -> Iterator[Local]:
        """p(x_0 | x_t) at each time but 0."""
        denoiser = step.student if name == "student" else step.peers[name]
        x = step.given(step.diffusion.prior(step.x_0.shape, step.generator, step.x_0.device))
        shown, left = share[0], 1.0
        for t, s in zip(times[:-1], times[1:], strict=True):
            now: Times = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
            with torch.no_grad():
                here: Local = step.look(denoiser, x, now)
            yield here
            if s:
                law, reveal = _step(sampler, step.diffusion, here, s, t)
                left = left * (1 - reveal)
                noise = here.places.take(share[1])[:, None]
                tokens = categorical_of_logs(law, noise=noise)
                x = torch.where(step.open(x) & (shown < 1 - left), here.place(tokens, x), x)


@torch.no_grad()
def _step(
    sampler: Sampler, diffusion: Diffusion, here: Local, s: float, t: float
) -> tuple[Tensor, Tensor | float]:
    """The log-law (N, 1, K) of the tokens that a step shows, and how likely it shows them: of all
    positions, or (B, L)."""
    log_p, chances = here.prediction.log_conditional, sampler.chances(diffusion, s, t)
    if chances is not None:
        return log_p, float(chances.reveal)
    masks = torch.full(log_p.shape[:2], diffusion.process.mask_token_id, device=log_p.device)
    moved = sampler.rule(here.prediction, diffusion, masks, s, t)
    moved = moved.scatter(-1, masks[..., None], 0.0)
    return moved.log(), here.per_token(moved.sum(-1))


@torch.no_grad()
def _products(ours: Local, theirs: Local) -> tuple[Tensor, Tensor, Tensor]:
    """(p . p, p . p*, p* . p*) of two laws at each position, (B, L) float64 each; a law is 0 where
    x_0 is known already."""

    def product(one: Local, other: Local, at: Places) -> Tensor:
        found = torch.zeros(at.shape, dtype=torch.float64, device=at.index.device)
        numbers, laws = [], []
        for each in (one, other):
            numbers.append(each.numbers_of(at))
            laws.append(each.prediction.log_conditional.squeeze(1))
        sums = [found.new_zeros(0)]
        for some in chunks(laws[0], numbers[0]):
            p, q = (law[at[some]].double().exp() for law, at in zip(laws, numbers, strict=True))
            sums.append((p * q).sum(-1))
        return at.put(torch.cat(sums), found)

    shared = Places.of(ours.where & theirs.where)
    return (
        product(ours, ours, ours.places),
        product(ours, theirs, shared),
        product(theirs, theirs, theirs.places),
    )
