"""What the samplers share whose steps take several calls: given tokens are given to each."""

from __future__ import annotations

import copy

from hf_ddistill.samplers.canvas import Canvas
from hf_ddistill.shapes import Tokens


class Holding:
    """Mixed into a `Sampler`, before it: `hold` puts what is given in its places between calls.

    The loop holds it behind every step. Within one, under a process that is not masking, a given
    token may have moved before the next call sees it.
    """

    _canvas: Canvas | None = None

    def holding(self, canvas: Canvas) -> Holding:
        """A copy that holds what is given on a canvas."""
        run = copy.copy(self)
        object.__setattr__(run, "_canvas", canvas)
        return run

    def hold(self, x: Tokens) -> Tokens:
        """`x` with the given tokens in their places."""
        return x if self._canvas is None else self._canvas.hold(x)
