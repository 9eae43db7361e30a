"""What the steps of a training say of its student, without a further call of any network."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_ddistill.couplings import Log

#: What a student's figure is held against, with the reference's name.
_LAW = ("entropy", "teacher_entropy")
_TOKENS = ("rollout_entropy", "data_entropy")
_LAG = "auxiliary_lag"
_NAMES = (*_LAW, *_TOKENS, _LAG)
#: Optimizer steps whose mean counts.
STEPS = 3
#: Nats below which a reference has no variety to be lost.
NOTHING = 0.05


class StepFigures:
    """Means over the last three optimizer steps of what the objective (or the decoder of rollouts)
    logs, in all processes:

    - `rollout_entropy`, of the tokens that the student draws, as one histogram over the batch; held
      against that of the first step, of a student that is its teacher, and `data_entropy`, where
      there is data of the same kind: the smaller of the two;
    - `entropy`, of the law of the student's samples by a network that learns it, against
      `teacher_entropy`;
    - `auxiliary_lag`, of the network that is trained beside it.

    All in nats per token.
    """

    def __init__(self) -> None:
        self.seen: list[Log] = []
        self.last: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=STEPS))
        self.first: float | None = None

    def see(self, log: Log) -> None:
        """Take note of the log of a micro step, which the objective will have filled by its end."""
        self.seen.append(log)

    def read(self, accelerator: Accelerator) -> None:
        """Enter the figures of the optimizer step that is about to be taken."""
        records, self.seen = [log.figures for log in self.seen], []
        for name, value in _means(records, accelerator).items():
            self.last[name].append(value)
        if self.first is None and self.last["rollout_entropy"]:
            self.first = self.last["rollout_entropy"][0]

    def forget(self) -> None:
        """Wait for so many new steps: the student has changed."""
        for name in (*_LAW, *_TOKENS):
            self.last[name].clear()

    @property
    def lag(self) -> float:
        """Nats per token by which the auxiliary lags, 0 where nobody measures it."""
        values = self.last[_LAG]
        return sum(values) / len(values) if values else 0.0

    def lost(self, share: float) -> str | None:
        """The entropy that is below a share of what it is held against, as a clause."""
        tokens, data = map(self._mean, _TOKENS)
        before = self.first if data is None or self.first is None else min(self.first, data)
        entropy, teacher = map(self._mean, _LAW)
        for own, reference, have, where in (
            (tokens, before, "the tokens that it draws have", "where they had"),
            (entropy, teacher, "its samples have", "where the teacher has"),
        ):
            if own is None or reference is None or reference < NOTHING:
                continue
            if own < share * reference:
                return (
                    f"{have} an entropy of {own:.4g} nats per token, below {share:g} of the "
                    f"{reference:.4g} {where}"
                )
        return None

    def _mean(self, name: str) -> float | None:
        values = self.last[name]
        return sum(values) / STEPS if len(values) == STEPS else None

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        first = {} if self.first is None else {"first": [self.first]}
        lists = {**first, **{f"last.{name}": [*values] for name, values in self.last.items()}}
        return {name: torch.tensor(v, dtype=torch.float64) for name, v in lists.items() if v}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `kept` gave."""
        self.first = float(tensors["first"]) if "first" in tensors else None
        for name in _NAMES:
            self.last[name].clear()
            self.last[name].extend(tensors.get(f"last.{name}", torch.empty(0)).tolist())


def _means(records: Sequence[dict[str, Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """The mean of each figure over micro batches and processes; one wait for the device."""
    found: dict[str, list[Tensor]] = {
        name: [record[name].double() for record in records if name in record] for name in _NAMES
    }
    several = accelerator.num_processes > 1
    if not several and not any(found.values()):
        return {}
    device = accelerator.device
    zero = torch.zeros((), dtype=torch.float64, device=device)
    sums = torch.stack([sum((v.to(device) for v in found[name]), zero) for name in _NAMES])
    counts = torch.tensor([len(found[name]) for name in _NAMES], device=device).double()
    both = torch.stack([sums, counts])
    if several:
        both = accelerator.reduce(both, "sum")
    sums, counts = both.tolist()
    return {
        name: total / count
        for name, total, count in zip(_NAMES, sums, counts, strict=True)
        if count
    }
