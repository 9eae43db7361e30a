"""How strong a new noise input is at first: so that it tells a share of a token's entropy."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import unwrapped
from hf_ddistill.models.noise_input import noise_input_of
from hf_ddistill.training.clean_tokens import trained_in
from hf_ddistill.training.rows_of_data import batches_of, rows_of

logger = logging.getLogger(__name__)

#: Of a token's entropy, and how near to that is near enough, as a factor.
SHARE, NEAR = 0.1, 1.15
#: The first strength that is tried, and how many more, each at most so many times the one before.
FIRST, TRIES, FARTHEST = 0.3, 10, 8.0
#: Rows of the data, positions of each that are looked at, and draws of noise.
ROWS, POSITIONS, DRAWS = 4, 64, 8


@dataclass(frozen=True)
class Told:
    """What a noise input tells of a token in the first call, in nats, the mean over positions.

    Args:
        std: of what it adds to each channel.
        told: the mutual information of noise and token, H(mean of p) - mean of H(p).
        entropy: H(mean of p), all that there is to tell.
    """

    std: float
    told: float
    entropy: float

    @property
    def share(self) -> float:
        """Of the entropy; 0 where there is none."""
        return self.told / self.entropy if self.entropy > 0 else 0.0

    @property
    def off(self) -> float:
        """The factor that the share is off by, at least 1."""
        return math.exp(abs(math.log(max(self.share, 1e-12) / SHARE)))


def set_strength(trainer: Any) -> Told | None:
    """Scale the new noise input of a trainer's student, which adds `FIRST` to each channel, so that
    it tells `SHARE` of a token's entropy; None, and no change, without data or where these rows
    are context alone.

    Too weak a noise input is not seen, and law matching in one call has nothing to go by; too
    strong a one is first to be unlearned. What a strength does hangs on the size of the embeddings
    and on what the layers make of them, so that no number suits all models.

    Args:
        trainer: a `DiscreteDistillationTrainer` that is ready to train.
    """
    found = _search(trainer)
    if found is None:
        return None
    with torch.no_grad():
        # Adapters keep a copy of their own, which is the one in training.
        for weight in noise_input_of(unwrapped(trainer.model)).parameters():
            weight.mul_(found.std / FIRST)
    if trainer.is_world_process_zero():
        tells = "at which" if found.off <= NEAR else f"no strength tells {SHARE:.0%}, and at this"
        logger.warning(
            "noise_std=%.3g: %s the untrained noise input tells %.2g of the %.2g nats of a token; "
            "set it for another strength.",
            found.std,
            tells,
            round(found.told, 6),
            found.entropy,
        )
    return found


def _search(trainer: Any) -> Told | None:
    """The strength that tells the share; if none does, the nearest that was tried."""
    # A process that waits for the first one's weights has none yet, and is sent what that finds.
    weightless = next(trainer.model.parameters()).is_meta
    there = trainer.train_dataset is not None or trainer.eval_dataset is not None
    rows = rows_of(trainer, ROWS) if there and not weightless else []
    if not rows:
        return None
    (inputs,) = batches_of(trainer, rows, ROWS)
    if not trained_in(inputs, trainer.args.prompt_length).any():
        return None
    std, tried, low, high = FIRST, [], 0.0, math.inf
    for _ in range(1 + TRIES):
        now = _told(trainer, inputs, std)
        tried.append(now)
        if now.off <= NEAR:
            break
        low, high = (std, high) if now.share < SHARE else (low, std)
        # What little noise tells goes with the square of its strength.
        factor = (SHARE / max(now.share, 1e-12)) ** 0.5
        std *= min(max(factor, 1 / FARTHEST), FARTHEST)
        if not low < std < high:
            std = (low * high) ** 0.5
    return min(tried, key=lambda each: each.off)


@torch.no_grad()
def _told(trainer: Any, inputs: Mapping[str, Tensor], std: float) -> Told:
    """By a noise input of a strength, at the positions of the rows that a student writes."""
    model, student = unwrapped(trainer.model, keep_adapters=True), trainer.denoiser()
    device = next(model.parameters()).device
    open_ = trained_in(inputs, trainer.args.prompt_length).to(device)
    given = {name: value.to(device) for name, value in inputs.items() if name != "labels"}
    x_0 = given.pop("input_ids")
    noise = keyed_generator(trainer.args.seed, "noise strength", device=device)
    x_1 = torch.where(open_, trainer.diffusion.prior(x_0.shape, noise, device), x_0)
    # Of long rows some: all laws of a large vocabulary would not fit beside the training.
    every = (open_.sum(1, keepdim=True) / POSITIONS).ceil().clamp_min(1)
    asked = open_ & ((open_.cumsum(1) - 1) % every == 0)
    training, mean, known = model.training, 0.0, 0.0
    model.eval()
    with trainer.compute_loss_context_manager():
        for _ in range(DRAWS):
            # Of a linear function: that of stronger noise is a stronger one.
            latent = {k: z * std / FIRST for k, z in student.fresh_noise(x_1, noise).items()}
            law = student.at(x_1, 1.0, asked, **latent, **given).log_conditional.double().exp()
            mean = mean + law / DRAWS
            known = known + _entropy(law) / DRAWS
    model.train(training)
    entropy = _entropy(mean)
    # Few draws spread less than all noise does, by this factor where it tells little.
    told = (entropy - known) * DRAWS / (DRAWS - 1)
    return Told(std, float(told.mean()), float(entropy.mean()))


def _entropy(law: Tensor) -> Tensor:
    """Over the last dimension."""
    return -torch.special.xlogy(law, law).sum(-1)
