"""What a call of the pipeline went through: every state, and how sure the model was of its news.

B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """The state behind a step.

    Args:
        sequences: (B, L) int64.
        changed: (B, L) bool, the tokens that the step has changed.
        confidence: (B, L), how likely the model said that each of those is; NaN elsewhere, and
            where it is not known.
    """

    sequences: Tensor
    changed: Tensor
    confidence: Tensor


@dataclass
class Trace:
    """A `callback_on_step_end` that keeps what it is told.

    ```python
    trace = Trace()
    pipe(callback_on_step_end=trace, callback_on_step_end_tensor_inputs=trace.inputs)
    ```

    Args:
        moments: one behind each step, in their order.
    """

    moments: list[Moment] = field(default_factory=list)
    inputs: ClassVar[tuple[str, ...]] = ("sequences", "changed", "confidence")

    def __call__(
        self, pipe: Any, number: int, timestep: Any, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Keep a state; it is told apart from the pipeline's, which goes on."""
        self.moments.append(Moment(*(tensors[name].detach().cpu() for name in self.inputs)))
        return {}
