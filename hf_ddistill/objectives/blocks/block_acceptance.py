"""A draft of blocks trained to be accepted by the causal model that verifies it from left to right.

q_j = q(. | x_0^(<block), x_t^block) the law of a masked token of a block whose first tokens are
known, p_j = p_LM(. | x_0^(<j)) that of the causal model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import Autoregressive
from hf_ddistill.divergences import Divergence
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.acceptance import compared, expected_share
from hf_ddistill.objectives.blocks.states import decoded, masked
from hf_ddistill.objectives.needs import Frozen, Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.shapes import Scalar, Where


@dataclass(frozen=True)
class BlockAcceptance(Objective):
    """E[1 - A / n], A the tokens out of the n that are left of a block of which the causal model
    keeps the draft, in expectation, see `expected_share` and `decode_verified`.

    The states are those of such a decoding: of each block the first tokens are known, as many as
    one likes, and the others are masks. All blocks of a row are one call of the student, and the
    causal model says all p_j in one. Exact where x_0 has the causal model's law.

    Args:
        divergence: None for A; or E mean_j D(p_j, q_j): "total_variation" is the term by which Uno
            trains for speed (half its L1), "forward_kl" and "reverse_kl" are DistillSpec's.
    """

    divergence: Divergence | Mapping[str, Any] | str | None = None
    id: ClassVar[str] = "block_acceptance"
    over: ClassVar[str] = "blocks"
    networks: ClassVar[Networks] = {"teacher": Frozen(causal=True)}
    citation: ClassVar[str] = "Uno, 2026, arXiv:2609.04010"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence is not None:
            object.__setattr__(self, "divergence", Divergence.from_config(self.divergence))

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        path = decoded(step, self.id)
        where = self._left(step, path.drawn.unflatten(1, (-1, path.block_size)))
        x_t = masked(step, where)
        student = step.look(step.student, x_t, None, where, clean_ids=step.x_0)
        places = student.places
        teacher = Autoregressive(step.peers["teacher"])
        with torch.no_grad():
            log_p = step.look(teacher, step.x_0, None, places).prediction.log_conditional[:, 0]
        tokens, counts = places.take(step.x_0), where.unflatten(1, (-1, path.block_size))

        def placed(values: Tensor) -> Tensor:
            grid = values.new_zeros(where.shape)
            return places.put(values, grid).view(counts.shape)

        *parts, distance = compared(log_p, student, tokens, self.divergence)
        share = expected_share(*map(placed, parts), counts)
        busy = counts.any(-1)
        blocks = busy.sum(1).clamp_min(1)
        kept = (share.detach() * counts.sum(-1)).sum(1) / blocks
        step.log("accepted", step.row_mean(kept))
        if self.divergence is None:
            loss = (1 - share) * busy
        else:
            loss = placed(distance).sum(-1) / counts.sum(-1).clamp_min(1)
        return {"student": step.row_mean(loss.sum(1) / blocks)}

    def _left(self, step: TrainingStep, drawn: Tensor) -> Where:
        """(B, L), what is left of the tokens of each block (B, blocks, b) behind the first ones,
        one at least."""
        share = uniform_noise(drawn.shape[:2], step.generator, drawn.device)
        known = (share * drawn.sum(-1)).long()
        return (drawn & (drawn.long().cumsum(-1) > known[..., None])).flatten(1)
