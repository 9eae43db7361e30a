"""Which calls of a rollout answer for which part of its reward.

The reward R = log p_T(x_0) - log p_S(x_0) is, by the chain rule in the order of the calls, the sum
of what each call gained: log p_T - log p_S of the tokens that it decided, given those before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.couplings.rollouts import Rollout
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.shapes import Where


@dataclass(frozen=True)
class Asked:
    """What of x_0 a reward is about.

    Args:
        within: (B, L), the positions that are asked for.
        hidden: (B, L), those that were decided later; None for none.
        call: (B,), the call whose gain it is; None for the whole of R.
        times: (B,) or 1, what the gain is multiplied by, to be R on average over the calls.
    """

    within: Where
    hidden: Where | None = None
    call: Tensor | None = None
    times: Tensor | float = 1.0


def asked_for(step: TrainingStep, rollout: Rollout, part: str, count: int) -> list[Asked]:
    """What of a rollout's x_0 is looked at, `count` times.

    Args:
        step: of the rollout.
        rollout: whose x_0.
        part: "call": what was open at the call that drew x_0, given the rest; "rollout": all of it;
            "each call": what one of the calls decided, given what those before had decided: a
            random one, and the next ones in turn, as far as `count` goes.
        count: how often.

    Raises:
        ValueError: for "each call" of a process that decides nothing for good.
    """
    everywhere = step.trained
    if part == "call":
        return [Asked(rollout.last.where)] * count
    if part == "rollout":
        return [Asked(everywhere)] * count
    if not step.diffusion.reveals:
        raise ValueError(
            "The gain of a call is known where calls decide tokens for good, under Absorbing; got "
            f"{type(step.diffusion.process).__name__}: give credit='rollout'."
        )
    calls = rollout.stop + 1
    first = uniform_noise(calls.shape, step.generator, calls.device)
    asked = []
    for i in range(count):
        call = ((first + i / count) % 1 * calls).long()
        at = rollout.number - call[:, None]
        asked.append(Asked((at == 0) & everywhere, (at > 0) & everywhere, call, calls.double()))
    return asked


def credit(
    log_probs: Tensor, asked: Asked, rewards: Tensor, good: Tensor, alone: bool = False
) -> Tensor:
    """(B,), log-probabilities of calls, each times the reward that it answers for less the mean of
    that of the other rows, so that the mean gradient is the same for any number of them.

    No call had a part in what was gained before it: the calls up to one answer for its gain, and
    the mean is that of the other rows that look at the same call of as many; of all others where
    there is none such, and 0 where there is no other row.

    Args:
        log_probs: (B, C), of each call that answers.
        asked: what the rewards are about.
        rewards: (B,).
        good: (B,), False for rows that do not count.
        alone: take each row for the only one.
    """
    if asked.call is None:
        group, answers = torch.zeros_like(rewards, dtype=torch.int64), log_probs.sum(1)
    else:
        group = asked.times.long() * log_probs.shape[1] + asked.call
        answers = log_probs.cumsum(1).gather(1, asked.call[:, None])[:, 0]
    if alone:
        return rewards * good * answers
    own = torch.stack([rewards * good, good.to(rewards)])
    total = own.new_zeros(2, int(group.max()) + 1).index_add(1, group, own)
    others = total[:, group] - own
    others = torch.where(others[1] > 0, others, own.sum(1, keepdim=True) - own)
    return (rewards - others[0] / others[1].clamp_min(1)) * good * answers
