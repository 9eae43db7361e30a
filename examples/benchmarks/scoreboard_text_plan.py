"""What the noise input of a student of text carries in one call, and how far.

    python examples/benchmarks/scoreboard_text_plan.py --text TEXT.txt STUDENT [STUDENT ...]
    python examples/benchmarks/scoreboard_text_plan.py --text TEXT.txt --untrained RECIPE

A student is a folder, or the name of a recipe whose student has not been trained.

From masks alone a call gives, for each draw n of the noise, a law p_n of every position. `told` is
what the noise tells of a token, mean_i H(mean_n p_n^i) - mean_n H(p_n^i); `pairs` is what two
tokens of one call tell of each other, by their distance, the table of pairs pooled over positions
and draws: without a plan it is 0, of text it is what the last line has. `reach` is how far the
noise of one position acts: KL(p_n^i, p_n'^i) where n' differs from n at the position j alone, by
|i - j|, as a share of that at j; of a noise of the sequence there is none. All in nats.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmark_files import given_file
from scoreboard_text_corpus import SYMBOLS, Corpus
from scoreboard_text_networks import ASSET
from scoreboard_text_recipes import ALL
from scoreboard_text_students import student_of
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import AutoModelForMaskedLM

from hf_ddistill import as_denoiser
from hf_ddistill.denoisers import Denoiser

BATCH = 64
DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128)


def entropy(law: Tensor) -> Tensor:
    """Over the last dimension."""
    return -torch.special.xlogy(law, law).sum(-1)


def laws(denoiser: Denoiser, noise: Tensor, length: int) -> Tensor:
    """Of every position, (N, L, K), by the noise of the rows (N, ...)."""
    masks = denoiser.diffusion.prior((len(noise), length))
    parts = zip(masks.split(BATCH), noise.split(BATCH), strict=True)
    made = [denoiser(x_t, 1.0, noise=part).log_conditional.exp() for x_t, part in parts]
    return torch.cat(made)[..., : len(SYMBOLS)].double()


def told(law: Tensor) -> float:
    """By the noise, of a token, from laws (N, L, K)."""
    return float((entropy(law.mean(0)) - entropy(law).mean(0)).mean())


def pairs(law: Tensor, distance: int) -> float:
    """The mutual information of two tokens at a distance, from laws (N, L, K)."""
    first, last = law[:, :-distance].flatten(0, 1), law[:, distance:].flatten(0, 1)
    joint = first.T @ last / len(first)
    return float(entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint.flatten()))


def reach(denoiser: Denoiser, noise: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """KL by the distance (L / 2,) from the position in the middle, whose noise is drawn anew."""
    middle, other = length // 2, noise.clone()
    other[:, middle] = torch.randn(other[:, middle].shape, generator=generator)
    before, after = laws(denoiser, noise, length), laws(denoiser, other, length)
    kl = (torch.special.xlogy(before, before) - torch.special.xlogy(before, after)).sum(-1).mean(0)
    return kl[middle:]


@torch.no_grad()
def main() -> None:
    """Print a line for each student, and one of the text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("students", type=Path, nargs="*")
    known = [name for name, recipe in ALL.items() if recipe.noise and recipe.noise_scale]
    parser.add_argument("--untrained", nargs="+", default=[], choices=known)
    parser.add_argument("--teacher", type=Path, default=ASSET, help="of those")
    parser.add_argument("--text", type=given_file, required=True, help="documents by empty lines")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--draws", type=int, default=256)
    args = parser.parse_args()
    far = [each for each in DISTANCES if each < args.length]
    torch.manual_seed(0)
    fresh = [(f"{name}, untrained", student_of(args.teacher, ALL[name])) for name in args.untrained]
    trained = [(each.name, AutoModelForMaskedLM.from_pretrained(each)) for each in args.students]
    for name, model in [*fresh, *trained]:
        denoiser, generator = as_denoiser(model.eval()), torch.Generator().manual_seed(0)
        masks = denoiser.diffusion.prior((args.draws, args.length))
        noise = denoiser.fresh_noise(masks, generator)["noise"]
        law = laws(denoiser, noise, args.length)
        line = f"{name}: told {told(law):.3f}, pairs "
        line += " ".join(f"{each}: {pairs(law, each):.4f}" for each in far)
        if noise.ndim == 3:
            by_distance = reach(denoiser, noise[:BATCH], args.length, generator)
            share = by_distance / by_distance[0]
            line += f", at its own position {float(by_distance[0]):.4f}, reach "
            line += " ".join(
                f"{each}: {float(share[each]):.3f}" for each in far if each < len(share)
            )
        print(line, flush=True)
    rows = Corpus.read(args.text).rows("test", args.length)
    law = one_hot(rows, len(SYMBOLS)).double()
    print("text: pairs " + " ".join(f"{each}: {pairs(law, each):.4f}" for each in far))


if __name__ == "__main__":
    main()
