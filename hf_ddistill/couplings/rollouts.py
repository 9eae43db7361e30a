"""A student's own few-step sampler, rolled out for training.

A row of a rollout makes n calls at the times 1, 1 - 1/n, ..., 1/n. Rows need not have the same n,
nor stop at the same call: the call that a row stops at draws all of x_0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_ddistill.couplings.step_back import step_back, step_of
from hf_ddistill.couplings.training_step import Local, TrainingStep, log_variety
from hf_ddistill.linalg import categorical_of_logs, uniform_noise
from hf_ddistill.samplers import Sampler, walk
from hf_ddistill.shapes import Times, Tokens

#: The numbers of calls that one student is trained for, see `call_numbers`.
TRAINED_STEPS = ("each_number", "each_call", "only")


@dataclass(frozen=True)
class Rollout:
    """What a student drew, and how.

    Args:
        x_0: (B, L), drawn at the last call.
        last: the student's prediction at the last call, where x_0 was not certain; with gradients.
        log_probs: (B, C), log-probability of the step at each call before the last, 0 from that of
            a row on; with gradients if asked for, else all 0.
        calls: (B,) int64, n of each row.
        stop: (B,) int64, the call that drew x_0.
        start: (B, L), the noise that the first call was at.
        earlier: the predictions of the calls before the last with their rows (a row's call is in it
            if the row had not stopped), and where they decided a token for good; with gradients.
    """

    x_0: Tokens
    last: Local
    log_probs: Tensor
    calls: Tensor
    stop: Tensor
    start: Tokens
    earlier: tuple[tuple[Tensor, Local, Tensor], ...] = ()

    def log_probs_with_last(self) -> Tensor:
        """(B, C + 1), `log_probs` and, at the call that a row stops at, that of x_0 there."""
        last = self.last.per_token(self.last.log_prob_of(self.x_0).double()).sum(1)
        none = last.new_zeros(len(last), 1)
        log_probs = torch.cat([self.log_probs, none], 1)
        return log_probs.scatter_add(1, self.stop[:, None], last[:, None])

    def last_step(self) -> tuple[Times, Times]:
        """(t, s): when each row's last call was, and when the next one would be; (B,) each."""
        return tuple(1 - (self.stop + more) / self.calls.double() for more in (0, 1))


def call_numbers(step: TrainingStep, trained: str) -> Tensor:
    """The number of calls n of each row, (B,), on the CPU, where what follows is planned.

    Args:
        step: of a student of `student_steps`.
        trained: "only": `student_steps`; "each_number": one of 1, 2, 4, ... up to it, each as
            likely as the others; "each_call": each of these in proportion to n, so that a row that
            trains one of its calls trains any of them all alike.
    """
    rows, most = step.x_0.shape[0], step.student_steps
    if trained == "only":
        return torch.full((rows,), most)
    numbers = [2**i for i in range(most.bit_length()) if 2**i <= most]
    numbers = sorted({*numbers, most})
    if trained == "each_call":
        numbers = [n for n in numbers for _ in range(n)]
    choices = torch.tensor(numbers)
    share = uniform_noise((rows,), step.generator, "cpu")
    return choices[(share * len(choices)).long()]


def roll_out(
    step: TrainingStep,
    calls: Tensor,
    stop: Tensor,
    sampler: Sampler | str = "ancestral",
    graph: bool = False,
) -> Rollout:
    """Roll the student out of the prior, and record the variety of what it draws.

    Args:
        step: its `x_0` gives only the shape and the context.
        calls: (B,), n of each row, on the CPU.
        stop: (B,), likewise, in 0 .. n - 1: the call that draws x_0.
        sampler: of each step before; one with a rule.
        graph: whether the calls before the last keep their gradients.

    Raises:
        ValueError: for a sampler without a rule.
    """
    sampler = Sampler.from_config(sampler)
    shape, device = step.x_0.shape, step.x_0.device
    log_probs, earlier = [], []
    stops = stop.tolist()  # of tensors on the CPU, so that nobody waits
    calls, stop = (each.to(device, non_blocking=True) for each in (calls, stop))
    own = max(stops)
    before = step.most(own)
    graph = graph and before > 0
    running = [[row for row, last in enumerate(stops) if last > c] for c in range(own)]
    rows_of = [torch.tensor(rows, device=device) for rows in running]

    def idle() -> None:
        """A call for the sake of processes that make more, drawn from and counted for nothing."""
        row = torch.zeros(1, dtype=torch.int64, device=device)
        part = replace(step.rows(row), generator=torch.Generator(device))
        here = part.look(step.student, noise[row], times[0][row])
        nothing = 0.0 * here.prediction.log_conditional.amax(-1).double().sum()
        log_probs.append(nothing.expand(shape[0]))
        if graph:
            earlier.append((row, here, torch.zeros_like(here.where)))

    def move(x: Tokens, s: Tensor, t: Tensor) -> Tokens:
        if len(log_probs) >= own:
            idle()
            return x
        rows = rows_of[len(log_probs)]
        part = step.rows(rows)
        if not graph:
            log_probs.append(None)
            x_s = step_of(part, step.student, x[rows], s[rows], t[rows], sampler)
            return x.index_copy(0, rows, x_s)
        here = part.look(step.student, x[rows], t[rows])
        x_s, gained = step_back(part, x[rows], here, s[rows], sampler)
        log_probs.append(gained.new_zeros(shape[0]).index_add(0, rows, gained))
        earlier.append((rows, here, here.where & ~step.diffusion.undetermined(x_s)))
        return x.index_copy(0, rows, x_s)

    noise = step.given(step.diffusion.prior(shape, step.generator, device))
    times = [1 - call / calls.double() for call in range(before + 1)]
    with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
        x = walk(times, noise, move)
    last = step.look(step.student, x, 1 - stop / calls.double())
    log_p = last.prediction.log_conditional
    x_0 = last.place(categorical_of_logs(log_p, noise=step.numbers(last.places)[:, None]), x)
    log_variety(step, x_0)
    none = torch.zeros(shape[0], before, dtype=torch.float64, device=device)
    log_probs = torch.stack(log_probs, 1) if graph else none
    return Rollout(x_0, last, log_probs, calls, stop, noise, tuple(earlier))
