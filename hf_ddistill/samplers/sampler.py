"""The contract of a sampler, and the loop over steps that all of them share.

x_t noised tokens (B, L) at t, x_s those at the next time s < t of the grid; t = 1 is noise, 0 data.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import asked_at_the_end
from hf_ddistill.parameterizations import Prediction, log_prob_of
from hf_ddistill.samplers.canvas import Canvas
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.grid import check_grid, step_grid
from hf_ddistill.samplers.in_pieces import draw_in_pieces
from hf_ddistill.samplers.interval import to_data
from hf_ddistill.samplers.plan import only_reveal, planned
from hf_ddistill.samplers.posterior import posterior
from hf_ddistill.samplers.revealing import Throw, reveal
from hf_ddistill.samplers.walk import Progress, Reached, unwatched, walk
from hf_ddistill.shapes import Chooser, Generators, PerToken, Probs, Tokens


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
    #: Whether it takes tokens that the denoiser's `draft` drafts.
    drafts: ClassVar[bool] = False

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

    def asked(
        self, denoiser: Denoiser, x_t: Tokens, s: Tensor | float, t: Tensor | float
    ) -> Denoiser:
        """Whom a step by the rule asks: the denoiser, or one that is told more."""
        return denoiser

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
        return (posterior if to_data(s) else self.rule)(prediction, diffusion, x_t, s, t)

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

    def known_chances(
        self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float
    ) -> Chances | None:
        """`step_chances`, unless a class nearer than the one that says them has another step."""
        others = map(self._made_by, ("rule", "probs", "advance", "step"))
        return (
            self.step_chances(diffusion, s, t) if self._made_by("chances") <= min(others) else None
        )

    def _made_by(self, name: str) -> int:
        """How far up the class is that a method comes from."""
        return next(i for i, kind in enumerate(type(self).__mro__) if name in vars(kind))

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

        def law(said, tokens, s, t):  # noqa: ANN001, ANN202
            return self.probs(*said, diffusion, *tokens, s, t)

        return draw_in_pieces(law, (prediction,), (x_t,), diffusion, (s, t), generator)

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
        leave data. With `chances` the denoiser is asked where a token is drawn, and nowhere else.
        """
        chances = self.known_chances(denoiser.diffusion, s, t)
        if chances is not None:
            return reveal(denoiser, x_t, t, Throw(chances, generator), condition)
        prediction = look(denoiser, x_t, t, generator, **condition)
        return self.advance(prediction, denoiser.diffusion, x_t, s, t, generator)

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        n: int | Sequence[float],
        generator: Generators = None,
        on_step: Callable[[Reached[Tokens]], object] | Progress | None = None,
        **condition: Any,
    ) -> Tokens:
        """Draw x_0 (B, L) in n steps.

        Args:
            denoiser: any.
            canvas: the shape, and what is given of x_0: it is held behind every step.
            n: number of steps: at most as many network calls for a sampler with one a step, since a
                step that draws nothing needs none; if all is given, none at all. Or the times
                themselves, from at most 1 down to 0.
            generator: of all random numbers, or a list with one for each row.
            on_step: is told behind each step, see `Reached`; what it puts in is not held. Without
                one, and for a `Progress`, rows need not be at the same step in a call.
            **condition: inputs of the denoiser, such as `class_labels`; tensors whose first
                dimension is B are by rows.

        Raises:
            ValueError: for n under 1, a grid that does not descend to 0, given tokens outside the
                vocabulary, and a diffusion under which the sampler cannot start.
        """
        diffusion = denoiser.diffusion
        grid = n if isinstance(n, list | tuple) else self.grid(n, diffusion)
        check_grid(grid)
        self.check(diffusion)
        diffusion.check_tokens(canvas.tokens.masked_fill(canvas.infill, 0))
        run = self.begin().holding(canvas)
        shape, device = canvas.tokens.shape, canvas.tokens.device
        x = canvas.hold(diffusion.prior(shape, generator, device))
        chances = [run.known_chances(diffusion, s, t) for t, s in pairwise(grid)]
        known = iter(chances)

        def move(x: Tokens, s: float, t: float) -> Tokens:
            now = next(known)
            if now is None:
                return canvas.hold(run.step(denoiser, x, s, t, generator, **condition))
            throw = Throw(now, generator, canvas.infill)
            return canvas.hold(reveal(denoiser, x, t, throw, condition))

        fixed = "noise" in condition or denoiser.latent is None
        fixed = fixed and unwatched(on_step) and not isinstance(generator, Chooser)
        with asked_at_the_end():
            if fixed and only_reveal(chances):
                for asked, share in planned(grid, chances, canvas, generator):
                    x = asked.put(asked.draw(denoiser, x, condition), x)
                    if on_step is not None:
                        on_step.told(share)
                return x
            return walk(grid, x, move, on_step) if bool(canvas.infill.any()) else x


def look(
    denoiser: Denoiser,
    x_t: Tokens,
    t: Tensor | float,
    generator: Generators = None,
    **condition: Any,
) -> Prediction:
    """One call of a denoiser, with fresh noise where it takes some and none is given as `noise`."""
    if "noise" not in condition:
        condition = {**condition, **denoiser.fresh_noise(x_t, generator)}
    return denoiser(x_t, t, **condition)
