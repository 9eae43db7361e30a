"""How likely data are under a denoiser: a bound on -log p(x_0), with its standard error.

-log p(x_0) <= E_t sum_l density^l(x_0, x_t, t)              any process
-log p(x_0) <= sum_b E_n (N / n) sum_(n masked) -log p^l     blocks of N tokens, each given
                                                             the ones before
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.couplings.times import EARLIEST
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg import RowStreams, uniform_noise
from hf_ddistill.objectives.likelihood_bound import nelbo_density
from hf_ddistill.places import Places
from hf_ddistill.shapes import Generators, Tokens, Where


@dataclass(frozen=True)
class Bound:
    """A bound on the negative log-likelihood of data.

    Args:
        nats: per token.
        standard_error: of `nats`, over the rows of the data and the noise of each; NaN for one row.
        tokens: that it is a mean over.
        rows: that they are in; one without any is none.
    """

    nats: float
    standard_error: float
    tokens: int
    rows: int

    @property
    def bits(self) -> float:
        """Per token."""
        return self.nats * math.log2(math.e)

    @property
    def perplexity(self) -> float:
        """exp(nats), an upper bound on the model's."""
        return math.exp(min(self.nats, 700.0))


def likelihood_bound(
    denoiser: Denoiser,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    draws: int = 1,
    block_size: int | None = None,
    seed: int = 0,
) -> Bound:
    """The bound of a denoiser on data, as a mean over tokens.

    Each row is seen in `draws` states whose times (or numbers of masks) are spread evenly, so that
    rows are independent and the error of the mean is that of a ratio of their sums.

    Args:
        denoiser: of any process; with blocks, one that reads `clean_ids` and masks.
        batches: `input_ids` (B, L), perhaps `attention_mask` (0 at padding), `labels` (-100 at
            context) and what else the network takes, such as `class_labels`.
        draws: states of each row.
        block_size: tokens in a block of the model's attention; None where it is full.
        seed: of the noise, which hangs on it and on the number of a row: it is the same in
            batches of any size, and for all models of one vocabulary.

    Raises:
        ValueError: for no data, or draws below 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}.")
    sums, lengths = [], []
    for batch in batches:
        x_0, real, condition = scored(batch)
        first = sum(map(len, sums))
        noise = RowStreams([_seed(seed, first + row) for row in range(len(x_0))])
        how = (draws, block_size, noise)
        sums.append(row_bounds(denoiser, x_0, real, *how, **condition).cpu())
        lengths.append(real.sum(1).cpu())
    if not sums or not int(torch.cat(lengths).sum()):
        raise ValueError("There are no tokens whose likelihood could be bounded.")
    total, length = torch.cat(sums), torch.cat(lengths).double()
    mean, count = float(total.sum() / length.sum()), int((length > 0).sum())
    apart = (total - mean * length).square().sum().sqrt() / length.sum()
    error = float(apart) * math.sqrt(count / (count - 1)) if count > 1 else math.nan
    return Bound(mean, error, int(length.sum()), count)


def scored(batch: Mapping[str, Tensor]) -> tuple[Tokens, Where, dict[str, Tensor]]:
    """The tokens of a batch (B, L), which of them count, and what the network takes beside them."""
    x_0 = batch["input_ids"]
    real = torch.ones_like(x_0, dtype=torch.bool)
    for name, absent in (("attention_mask", 0), ("labels", -100)):
        if name in batch:
            real &= batch[name] != absent
    return x_0, real, {k: v for k, v in batch.items() if k not in ("input_ids", "labels")}


@torch.no_grad()
def row_bounds(
    denoiser: Denoiser,
    x_0: Tokens,
    real: Where,
    draws: int,
    block_size: int | None = None,
    generator: Generators = None,
    **condition: Tensor,
) -> Tensor:
    """(B,) float64, an estimate of the bound on -log p of each row, in nats: unbiased, but that a
    time before `EARLIEST` counts as that one.

    Args:
        denoiser, draws, block_size, generator: as of `likelihood_bound`.
        x_0: (B, L).
        real: (B, L), where tokens count; the others are seen as they are.
        **condition: inputs of the network beside (x_t, t), such as `attention_mask`.
    """
    total = torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
    # One block of all tokens: a time says no more than the share of masks, and their number spread
    # evenly has a tenth of the error.
    by_time = block_size is None and (denoiser.needs_time or not denoiser.diffusion.reveals)
    size = block_size or x_0.shape[1]
    start = uniform_noise((len(x_0), 1), generator, x_0.device)
    for draw in range(draws):
        share = (start + draw / draws) % 1
        if by_time:
            total += _at_time(denoiser, x_0, real, share[:, 0], generator, condition)
        else:
            where, weight = masks_in_blocks(real, share, size, generator)
            seen = condition if block_size is None else {**condition, "clean_ids": x_0}
            total += _at_masks(denoiser, x_0, where, weight, generator, seen)
    return total / draws


def _at_time(
    denoiser: Denoiser,
    x_0: Tokens,
    real: Where,
    share: Tensor,
    generator: Generators,
    condition: Mapping[str, Tensor],
) -> Tensor:
    diffusion, t = denoiser.diffusion, (1 - share).clamp_min(EARLIEST)
    x_t = torch.where(real, diffusion.corrupt(x_0, t, generator), x_0)
    places = Places.of(diffusion.undetermined(x_t) & real)
    noise = denoiser.fresh_noise(x_t, generator)
    prediction = denoiser.at(x_t, t, places, **condition, **noise)
    clean, noised = (places.take(x)[:, None] for x in (x_0, x_t))
    local = nelbo_density(prediction, diffusion, clean, noised, t.index_select(0, places.rows))
    return _by_row(local[:, 0], places, len(x_0))


def masks_in_blocks(
    real: Where, share: Tensor, size: int, generator: Generators = None
) -> tuple[Where, Tensor]:
    """Which tokens of each block are masked, n = 1 + floor(N u) of its N, and the weight N / n.

    Args:
        real: (B, L), the tokens that count.
        share: u, (B, 1).
        size: of a block; divides L.
        generator: of which n.
    """
    blocks = real.unflatten(1, (-1, size))
    count = blocks.sum(-1)
    masked = (1 + (share * count).floor()).minimum(count.double())
    order = uniform_noise(real.shape, generator, real.device).unflatten(1, (-1, size))
    ranks = order.masked_fill(~blocks, 2.0).argsort(-1).argsort(-1)
    weight = (count / masked.clamp_min(1)).repeat_interleave(size, 1)
    return (ranks < masked[..., None]).flatten(1) & real, weight


def _at_masks(
    denoiser: Denoiser,
    x_0: Tokens,
    where: Where,
    weight: Tensor,
    generator: Generators,
    condition: Mapping[str, Tensor],
) -> Tensor:
    places = Places.of(where)
    x_t = x_0.masked_fill(where, denoiser.diffusion.process.mask_token_id)
    noise = denoiser.fresh_noise(x_t, generator)
    prediction = denoiser.at(x_t, None, places, **condition, **noise)
    local = -prediction.log_prob_of(places.take(x_0)[:, None])[:, 0].double()
    return _by_row(local * places.take(weight), places, len(x_0))


def _seed(seed: int, row: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _by_row(values: Tensor, places: Places, rows: int) -> Tensor:
    total = torch.zeros(rows, dtype=torch.float64, device=values.device)
    return total.index_add(0, places.rows, values.double())
