"""One step from a model's output: at the positions that change, and nowhere else.

Notation: x_t noised tokens (B, L) at t, x_s those at the next time s < t, logits (B, L, K).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical, categorical_of_logs, require, uniform_noise
from hf_ddistill.parameterizations import Prediction, log_prob_of
from hf_ddistill.parameterizations.sharpening import sharpened
from hf_ddistill.places import Places
from hf_ddistill.samplers import Chances, Sampler
from hf_ddistill.samplers.asking import SOME
from hf_ddistill.shapes import Generators, Tokens


@dataclass(frozen=True)
class Given:
    """What a step is made from.

    Args:
        logits: (B, L, K).
        x_t: (B, L).
        t: its time.
        s: the next one.
        generator: of the draws.
    """

    logits: Tensor
    x_t: Tokens
    t: float
    s: float
    generator: Generators


@dataclass(frozen=True)
class Made:
    """What a step has come to.

    Args:
        x_s: (B, L).
        likeliest: (B, L), the likeliest x_0 at t.
        probs: (B, L), p(x_s | x_t) of each token; None where all are drawn together.
    """

    x_s: Tokens
    likeliest: Tokens
    probs: Tensor | None = None


@dataclass(frozen=True)
class Reader:
    """How a scheduler reads a model's output.

    Args:
        diffusion: of the process.
        dtype: in which it computes.
        sharpening: temperature, top-k and top-p; empty where they are not for it to apply.
    """

    diffusion: Diffusion
    dtype: torch.dtype
    sharpening: tuple = ()

    def drawn(self, logits: Tensor, places: Places, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N,) at masks, by numbers `noise` (N,), and their probabilities, float64; some
        positions at a time."""
        size = max(1, (SOME if logits.device.type == "cpu" else 16 * SOME) // logits.shape[-1])
        flat, hidden = logits.flatten(0, 1), self.diffusion.process.noise_index(logits.device)
        tokens, probs = [], []
        for index, u in zip(places.index.split(size), noise.split(size), strict=True):
            said = flat.index_select(0, index).to(self.dtype).index_fill_(-1, hidden, -torch.inf)
            log_p = sharpened(said, *self.sharpening) if self.sharpening else said.log_softmax(-1)
            tokens.append(categorical_of_logs(log_p, noise=u))
            probs.append(log_prob_of(log_p, tokens[-1]).double().exp())
        return torch.cat(tokens), torch.cat(probs)

    def anywhere(self, logits: Tensor, x_t: Tokens, t: float) -> Prediction:
        """log p(x_0 | x_t) (B, L, K), of possible tokens alone, sharpened."""
        logits = logits.to(self.dtype)
        # A model may put mass on an x_0 that cannot have become x_t; a rule divides by the kernel.
        impossible = self.diffusion.kernel(0.0, t).columns(x_t, logits.dtype) <= 0
        noise = self.diffusion.process.noise_index(logits.device)
        logits = logits.masked_fill(impossible.index_fill(-1, noise, True), -torch.inf)
        _check(logits.amax(-1))
        return Prediction(sharpened(logits, *self.sharpening))


def by_chances(reader: Reader, given: Given, chances: Chances) -> Made:
    """A step that draws only where a mask is revealed."""
    diffusion, x_t = reader.diffusion, given.x_t
    highest, likeliest = _likeliest(given.logits, diffusion.process.noise_tokens)
    masked = diffusion.undetermined(x_t)
    _check(highest, masked)
    u = uniform_noise(x_t.shape, given.generator, x_t.device)
    changes = torch.where(masked, u < chances.reveal, u >= 1 - chances.remask)
    shown = changes & masked
    if torch.compiler.is_compiling():  # a graph has no number of them: all are drawn
        places = Places(torch.arange(x_t.numel(), device=x_t.device), tuple(x_t.shape))
    else:
        places = Places.of(shown)
    tokens, said = reader.drawn(given.logits, places, places.take(u / chances.reveal))
    chance = torch.where(masked, chances.reveal, chances.remask)
    probs = torch.where(changes, chance, 1 - chance)
    x_s = x_t.masked_fill(changes, diffusion.process.mask_token_id)
    of_shown = places.put(said * places.take(probs), probs)
    return Made(
        torch.where(shown, places.put(tokens, x_s), x_s),
        torch.where(masked, likeliest, x_t),
        torch.where(shown, of_shown, probs).to(reader.dtype),
    )


def by_rule(reader: Reader, given: Given, sampler: Sampler) -> Made:
    """A step that draws each position that can still change by itself, by a sampler's rule."""
    diffusion, x_t = reader.diffusion, given.x_t
    every = given.s > 0 and not sampler.keeps_certain
    places = Places.of(diffusion.undetermined(x_t) | every)
    local = places.take(x_t)[:, None]
    said = reader.anywhere(places.take(given.logits)[:, None], local, given.t)
    probs = sampler.probs(said, diffusion, local, given.s, given.t)
    noise = uniform_noise(x_t.shape, given.generator, x_t.device)
    x_s = categorical(probs, noise=places.take(noise)[:, None])
    ones = torch.ones(x_t.shape, dtype=probs.dtype, device=x_t.device)
    return Made(
        places.put(x_s[:, 0], x_t),
        places.put(said.log_conditional.argmax(-1)[:, 0], x_t),
        places.put(log_prob_of(probs, x_s)[:, 0], ones),
    )


def by_sampler(reader: Reader, given: Given, run: Sampler) -> Made:
    """A step that draws all positions from all of them; of one that is no product over positions no
    probabilities are known."""
    diffusion, x_t = reader.diffusion, given.x_t
    said, where = reader.anywhere(given.logits, x_t, given.t), diffusion.undetermined(x_t)
    x_s, probs = run.advance(said, diffusion, x_t, given.s, given.t, given.generator), None
    if run.is_product:
        probs = run.prob_of(said, diffusion, x_t, x_s, given.s, given.t).to(reader.dtype)
    return Made(x_s, torch.where(where, said.log_conditional.argmax(-1), x_t), probs)


def _check(highest: Tensor, asked: Tensor | None = None) -> None:
    """Raise where the highest logit (B, L) says that there is no law; -inf and +inf do not matter
    where nothing is asked."""
    finite = highest.isfinite()
    require(
        ~highest.isnan(),
        lambda wrong, of: f"`model_output` holds NaN at {wrong} of {of} positions.",
    )
    require(
        finite if asked is None else finite | ~asked,
        lambda wrong, of: (
            f"`model_output` gives no distribution at {wrong} of {of} positions: +inf, or -inf "
            "for every x_0 that the process allows there."
        ),
    )


def _likeliest(logits: Tensor, noise: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The highest logit of a token that is no noise, (B, L), NaN if one is, and that token; read
    once, and nothing is copied."""
    (mask,) = noise
    parts = [(logits[..., :mask], 0), (logits[..., mask + 1 :], mask + 1)]
    found = [(part.max(-1), start) for part, start in parts if part.shape[-1]]
    (highest, token), start = found[0]
    token = token + start
    for (other, index), start in found[1:]:
        above = (other > highest) | other.isnan()
        highest, token = (
            torch.where(above, other, highest),
            torch.where(above, index + start, token),
        )
    return highest, token
