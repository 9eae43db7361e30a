"""The contract of a sampler, and the loop over steps that all of them share.

x_t noised tokens (B, L) at t, x_s those at the next time s < t of the grid; t = 1 is noise, 0 data.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import asked_at_the_end, categorical
from hf_ddistill.parameterizations import Prediction, log_prob_of
from hf_ddistill.samplers.canvas import Canvas
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.posterior import posterior
from hf_ddistill.shapes import Generators, PerToken, Probs, Tokens

State = TypeVar("State")


@dataclass
class Reached(Generic[State]):
    """Where a walk has got to; who is told may put another state in its place, or end it.

    Args:
        number: of the step, from 0.
        t: the time that the step was from.
        s: the time that it has reached.
        before: what was there at t, such as x_t.
        state: what is there, such as x_s.
        stop: whether the walk ends here.
    """

    number: int
    t: Any
    s: Any
    before: State
    state: State
    stop: bool = False


def walk(
    grid: Sequence[Any],
    state: State,
    move: Callable[[State, Any, Any], State],
    on_step: Callable[[Reached[State]], object] | None = None,
) -> State:
    """The loop over steps: `state = move(state, s, t)` for each t of the grid and the s after it.

    Args:
        grid: times, descending; a number each, or a tensor with one for each row.
        state: at the first of them.
        move: makes one step.
        on_step: is told behind each.
    """
    for number, (t, s) in enumerate(pairwise(grid)):
        reached = Reached(number, t, s, state, move(state, s, t))
        if on_step is not None:
            on_step(reached)
        state = reached.state
        if reached.stop:
            break
    return state


class Sampler(Configurable, ABC):
    """A way from noise to data in n steps.

    A member gives one of three, the first that is possible:

    `rule`: p(x_s | x_t) of each position by itself. Its step is then known from one call of the
    denoiser, its law can be differentiated: schedulers, couplings, rollouts and the limits of the
    laboratory take such a sampler.
    `advance`: x_s from one prediction for all positions together. Schedulers take it.
    `step`: x_s from a denoiser that is called as often as it takes. Pipelines take it.
    """

    #: Whether a token of which x_0 is certain stays as it is until the end.
    keeps_certain: ClassVar[bool] = True

    @property
    def is_product(self) -> bool:
        """Whether a step is a product over positions, that is, has a `rule`."""
        return type(self).rule is not Sampler.rule

    @property
    def calls_once(self) -> bool:
        """Whether a step is known from one prediction at x_t, that is, follows from `advance`."""
        return type(self).step is Sampler.step

    def check(self, diffusion: Diffusion) -> None:
        """Raise a ValueError if no sample can be drawn by it under this diffusion."""

    def grid(self, n: int, diffusion: Diffusion) -> Sequence[float]:
        """The times from 1 to 0 of n steps: even ones, unless a sampler knows better."""
        return step_grid(n)

    def sharpened(self, temperature: float, top_k: int | None, top_p: float) -> Sampler | None:
        """Itself with these settings of its draws, where it applies them itself; None where what a
        denoiser says is to be sharpened before it gets it."""
        return None

    def begin(self) -> Sampler:
        """Itself, or a copy that may remember from step to step; every sample begins with it."""
        return self

    def holding(self, canvas: Canvas) -> Sampler:
        """Itself, or a copy that holds what is given within a step too, see `Holding`."""
        return self

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """p(x_s | x_t) of each position, (B, L, K), for 0 < s < t.

        Raises:
            ValueError: for a sampler whose steps are no product over positions.
        """
        raise ValueError(
            f"The steps of the sampler {self.id!r} are no product over positions, so that it has "
            "no step rule; schedulers and rollouts of training need one, such as 'ancestral'."
        )

    def probs(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """p(x_s | x_t) by the rule, and to s = 0 p(x_0 | x_t) itself, so that no mask is left.

        `s` is 0 in every row or in none.
        """
        last = bool((torch.as_tensor(s) == 0).all())
        return (posterior if last else self.rule)(prediction, diffusion, x_t, s, t)

    def prob_of(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        x_s: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> PerToken:
        """The probabilities (B, L) that a step gives to tokens x_s, see `probs`."""
        return log_prob_of(self.probs(prediction, diffusion, x_t, s, t), x_s)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances | None:
        """How likely the rule, for 0 < s < t, is to reveal a mask and to mask a token, where that
        hangs on no prediction; asked under a process that reveals alone. None: it hangs on one.

        What it says is what `rule` says; a step then asks the denoiser only where a token is drawn.
        """
        return None

    def step_chances(
        self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float
    ) -> Chances | None:
        """`chances`, and to s = 0 those of `posterior`, so that no mask is left; None under a
        process that does not reveal."""
        chances = self.chances(diffusion, s, t) if diffusion.reveals else None
        return None if chances is None else chances.to_data(s)

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """x_s, drawn from what a denoiser says at x_t."""
        return categorical(self.probs(prediction, diffusion, x_t, s, t), generator)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """x_s, by as many calls of the denoiser as it takes; see `look`.

        `s` and `t` are a number each, or one for each row (B,); s = 0 is the last step, which must
        leave data.
        """
        prediction = look(denoiser, x_t, t, generator, **condition)
        return self.advance(prediction, denoiser.diffusion, x_t, s, t, generator)

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        n: int,
        generator: Generators = None,
        on_step: Callable[[Reached[Tokens]], object] | None = None,
        **condition: Any,
    ) -> Tokens:
        """Draw x_0 (B, L) in n steps.

        Args:
            denoiser: any.
            canvas: the shape, and what is given of x_0: it is held behind every step.
            n: number of steps, as many network calls for a sampler with one a step.
            generator: of all random numbers, or a list with one for each row.
            on_step: is told behind each step, see `Reached`; what it puts in is not held.
            **condition: inputs of the denoiser, such as `class_labels`.

        Raises:
            ValueError: for n under 1, given tokens outside the vocabulary, and a diffusion under
                which the sampler cannot start.
        """
        grid = self.grid(n, denoiser.diffusion)
        self.check(denoiser.diffusion)
        denoiser.diffusion.check_tokens(canvas.tokens.masked_fill(canvas.infill, 0))
        run = self.begin().holding(canvas)

        def move(x: Tokens, s: float, t: float) -> Tokens:
            return canvas.hold(run.step(denoiser, x, s, t, generator, **condition))

        shape, device = canvas.tokens.shape, canvas.tokens.device
        noise = canvas.hold(denoiser.diffusion.prior(shape, generator, device))
        with asked_at_the_end():
            return walk(grid, noise, move, on_step)


def look(
    denoiser: Denoiser,
    x_t: Tokens,
    t: Tensor | float,
    generator: Generators = None,
    **condition: Any,
) -> Prediction:
    """One call of a denoiser, with fresh noise where it takes some and none is given as `noise`."""
    return denoiser(x_t, t, **{**denoiser.fresh_noise(x_t, generator), **condition})


def step_grid(n: int) -> list[float]:
    """The times 1, 1 - 1/n, ..., 1/n, 0 that n steps go through."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"The number of steps must be an integer of at least 1, got {n!r}.")
    return [1 - i / n for i in range(n)] + [0.0]
