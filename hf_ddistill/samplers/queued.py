"""Which masked positions come next, in random order, and what is drafted there.

L positions in a row; W of them wait, k with a draft.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from hf_ddistill.linalg import categorical
from hf_ddistill.shapes import Generators


@dataclass(frozen=True)
class Queued:
    """The next positions of each row, and what is drafted there.

    Args:
        queue: (B, W) int64, L where there is none.
        laws: (B, k, K), q at the first k of them.
        ready: (B,), how many of these are known.
    """

    queue: Tensor
    laws: Tensor
    ready: Tensor

    def of(self, rows: Tensor) -> Queued:
        """Those of some rows."""
        return Queued(self.queue[rows], self.laws[rows], self.ready[rows])

    def put(self, rows: Tensor, new: Queued) -> Queued:
        """With others in some rows."""
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return Queued(*(old.index_copy(0, rows, value) for old, value in pairs))

    def fitting(self, masked: Tensor) -> Queued:
        """Without those of rows in which a position is no mask any more."""
        there = pad(masked, (0, 1), value=True).gather(1, self.queue).all(1)
        queue = self.queue.masked_fill(~there[:, None], masked.shape[1])
        return Queued(queue, self.laws, self.ready * there)


def filled(queue: Tensor, masked: Tensor, generator: Generators) -> Tensor:
    """A queue (n, W) with masked positions that are not in it at its free places, each as likely as
    the others; every row draws W numbers."""
    none, queue = masked.shape[1], queue.clone()
    waiting = pad(masked, (0, 1)).scatter(1, queue, False)
    for slot in queue.unbind(1):
        free = (slot == none) & waiting.any(1)
        law = waiting & free[:, None]
        law[:, none] = ~free
        slot.copy_(categorical(law.double(), generator).where(free, slot))
        waiting = waiting.scatter(1, slot[:, None], False)
    return queue
