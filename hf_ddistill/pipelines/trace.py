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
        confidence: (B, L), p(x_0 | x_t) of each token that the step has changed; NaN elsewhere.
    """

    sequences: Tensor
    confidence: Tensor

    @property
    def came(self) -> Tensor:
        """(B, L) bool, the tokens that the step has changed."""
        return ~self.confidence.isnan()


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
    inputs: ClassVar[tuple[str, ...]] = ("sequences", "confidence")

    def __call__(
        self, pipe: Any, number: int, timestep: Any, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Keep a state; it is told apart from the pipeline's, which goes on."""
        self.moments.append(Moment(*(tensors[name].detach().cpu() for name in self.inputs)))
        return {}
