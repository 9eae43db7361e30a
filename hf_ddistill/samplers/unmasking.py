"""Steps of masked diffusion whose positions an unmasking rule chooses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import generators_of
from hf_ddistill.parameterizations.sharpening import check_sharpening, sharpened
from hf_ddistill.places import Places
from hf_ddistill.samplers.choosing import Choosing, Say
from hf_ddistill.samplers.drawing import draw_at, taking
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Tokens
from hf_ddistill.unmasking import Draft, Unmasking


@dataclass(frozen=True)
class UnmaskingSampler(Choosing, Sampler):
    """Decide the masked positions that an unmasking rule picks.

    Any rule for any masked denoiser; the positions of a row are one block. Which are picked may
    hang on all that was drawn, so that a step is no product over positions. The last step decides
    all that is left, and rows in which nothing is left take no part in a call: n steps are at most
    n calls.

    The denoiser is asked at masked positions alone; by a rule that reads no logits (Static's
    "random" and "left_to_right") at those alone that are decided. A rule that reads no tokens has
    them drawn where it has picked.

    Args:
        unmasking: the rule, by name, settings or as it is. Rules that plan share what is masked
            out evenly over the steps.
        temperature: of the draws; confidence is read from what the denoiser says without it.
        top_k: keep this many tokens; None or 0 keeps all.
        top_p: keep the fewest tokens that hold this much probability.

    Raises:
        ValueError: for a setting out of its range; from `check`, for a process without a mask that
            reveals.
    """

    unmasking: Unmasking | Mapping[str, Any] | str = "static"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    id: ClassVar[str] = "unmasking"
    citation: ClassVar[str] = "Nie et al., Large Language Diffusion Models, 2025, arXiv:2502.09992"

    def __post_init__(self) -> None:
        check_sharpening(self.temperature, self.top_k, self.top_p)
        object.__setattr__(self, "unmasking", Unmasking.from_config(self.unmasking))
        object.__setattr__(self, "_before", None)

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process has masks that reveal."""
        if not diffusion.reveals:
            raise ValueError(
                "The sampler 'unmasking' decides masked positions for good, as under Absorbing, "
                f"not under {type(diffusion.process).__name__}."
            )

    def sharpened(self, temperature: float, top_k: int | None, top_p: float) -> UnmaskingSampler:
        """With these as its own, since confidence is read without them."""
        return replace(self, temperature=temperature, top_k=top_k, top_p=top_p)

    def begin(self) -> UnmaskingSampler:
        """For a rule that compares, a copy that remembers the prediction of the step before."""
        if not self.unmasking.compares:
            return self
        run = copy.copy(self)
        object.__setattr__(run, "_before", {})
        return run

    def choose(
        self,
        say: Say,
        diffusion: Diffusion,
        x_t: Tokens,
        interval: tuple[Tensor | float, Tensor | float],
        generator: Generators,
    ) -> Tokens:
        """x_s, with the tokens that the rule picks."""
        end, start = map(_one, interval)
        steps = round(1 / (start - end))
        number = {"call": round((1 - start) * steps), "calls": steps}
        masked, rule = diffusion.undetermined(x_t), self.unmasking
        decided = 1 - masked.double().mean(1)
        where = masked
        if end > 0 and not rule.reads_logits:
            given = {"progress": decided, "generator": generator}
            where = rule(Draft(None, None, None, masked, **number, **given))
        found = taking(where)
        if found is None:
            return x_t
        rows, places = found
        raw = say(places, rows)
        tokens, chosen = x_t, places
        if rows is not None:
            tokens, generator = x_t.index_select(0, rows), generators_of(generator, rows)
            masked, decided = masked.index_select(0, rows), decided.index_select(0, rows)
        law = raw
        if end > 0 and rule.reads_logits:
            before = self._remembered(raw, places, rows, len(x_t))
            drafts = self._drawn(raw, places, tokens, generator) if rule.reads_tokens else None
            draft = Draft(
                None, raw, drafts, masked, **number, before=before, progress=decided,
                generator=generator,
            )  # fmt: skip
            picked = rule(draft)
            if drafts is not None:
                tokens = torch.where(picked, drafts, tokens)
                return tokens if rows is None else x_t.index_copy(0, rows, tokens)
            chosen = Places.of(picked)
            law = raw[places.take(picked)]
        tokens = self._drawn(law, chosen, tokens, generator)
        return tokens if rows is None else x_t.index_copy(0, rows, tokens)

    def _drawn(self, raw: Tensor, places: Places, into: Tokens, generator: Generators) -> Tokens:
        """`into` with tokens drawn at some places; the numbers are those of all positions."""
        if self.temperature == 0:
            return places.put(raw.argmax(-1), into)
        settings = (self.temperature, self.top_k, self.top_p)
        plain = self.temperature == 1 and not self.top_k and self.top_p == 1
        change = None if plain else lambda law: sharpened(law, *settings)
        return places.put(draw_at(raw, places, generator, change), into)

    def _remembered(
        self, raw: Tensor, places: Places, rows: Tensor | None, count: int
    ) -> Tensor | None:
        """`raw` of the step before at these places, where there was one of this run."""
        if self._before is None:
            return None
        index, length = places.index, places.shape[1]
        if rows is not None:
            index = rows[places.rows] * length + places.positions
        kept, size = self._before.get("raw"), raw.shape[-1]
        if kept is None:
            fresh = raw.new_zeros(count, length, size)
            self._before["raw"] = fresh.view(-1, size).index_copy_(0, index, raw).view_as(fresh)
            return None
        before = kept.view(-1, size).index_select(0, index)
        kept.view(-1, size).index_copy_(0, index, raw)
        return before


def _one(time: Tensor | float) -> float:
    """The time of all rows."""
    low, high = (float(end) for end in torch.as_tensor(time, dtype=torch.float64).aminmax())
    if low != high:
        raise ValueError(
            f"The sampler 'unmasking' steps all rows at one time, got {low:.4g} to {high:.4g}."
        )
    return high
