"""Do adaptive times help ECD? On 2 x 3 patches of digits, where every conditional is known exactly.

`kl` is KL(exact conditional, student's) per token over all states, averaged over t, after the same
number of network calls; `variance` the trace of the gradient's covariance before, times adapted.
Run: python examples/benchmarks/adaptive_times.py --seeds 5 --steps 300 --json times.json
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json

import torch
from benchmark_files import rows_file
from sklearn.datasets import load_digits
from torch.nn.functional import one_hot
from tqdm import tqdm

from hf_ddistill.couplings import Memory, TrainingStep
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import ECD
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO

LENGTH, GRID, BATCH = 6, 4, 128
ADAPTIVE_GRID = {"type": "adaptive_times", "grid": True}
TIMES = ("uniform_times", "adaptive_times", "grid_times", ADAPTIVE_GRID)
PATCHES = torch.tensor(load_digits().images > 7).unfold(1, 2, 1).unfold(2, 3, 1)
CLEAN, COUNTS = PATCHES.reshape(-1, LENGTH).long().unique(dim=0, return_counts=True)
LAW = COUNTS.double() / COUNTS.sum()


def joint(diffusion, x_t, t):
    """p(x_0, x_t) of every patch, (B, patches)."""
    columns = diffusion.kernel(torch.zeros_like(t), t).columns(x_t)
    return columns.gather(-1, CLEAN.mT.expand(len(x_t), -1, -1)).prod(1) * LAW


def exact(diffusion):
    """The denoiser that knows p(x_0 | x_t), by Bayes' rule."""

    def network(x_t, t, at=None):
        seen = one_hot(CLEAN, diffusion.vocab_size).double()
        conditional = torch.einsum("bn,nlk->blk", joint(diffusion, x_t, t), seen)
        conditional = conditional / conditional.sum(-1, keepdim=True).clamp_min(1e-300)
        log_p = conditional.log().clamp_min(LOG_ZERO)
        return log_p if at is None else log_p.flatten(0, 1)[at]

    return NetworkDenoiser(network, diffusion, Conditional())


def perceptron(size, hidden=64):
    """One-hot tokens and t to the logits of every token."""
    widths = [LENGTH * size + 1, hidden, hidden, LENGTH * size]
    layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(widths)]
    return torch.nn.Sequential(layers[0], torch.nn.SiLU(), layers[1], torch.nn.SiLU(), layers[2])


def student(layers, diffusion):
    """The denoiser of a perceptron."""

    def network(x_t, t, at=None):
        tokens = one_hot(x_t, diffusion.vocab_size).flatten(1).float()
        output = layers(torch.cat([tokens, t[:, None].float()], 1)).view(*x_t.shape, -1)
        return output if at is None else output.flatten(0, 1)[at]

    return NetworkDenoiser(network, diffusion, Conditional())


@torch.no_grad()
def distance(layers, diffusion, times):
    """KL(exact, student) per token, averaged over x_t ~ p_t and over the times."""
    x_t = torch.cartesian_prod(*[torch.arange(diffusion.vocab_size)] * LENGTH)
    total = 0.0
    for time in times:
        t = torch.full((len(x_t),), time, dtype=torch.float64)
        log_p = exact(diffusion)(x_t, t).log_conditional
        log_q = student(layers, diffusion)(x_t, t).log_conditional
        kl = (log_p.exp() * (log_p - log_q)).sum(-1) * diffusion.undetermined(x_t)
        total += float(joint(diffusion, x_t, t).sum(1) @ kl.mean(1)) / len(times)
    return total


def gradients(layers, diffusion, objective, seed):
    """Leave the gradient of one batch after the other in the layers, and yield it as a vector."""
    memory, generator = Memory(), torch.Generator().manual_seed(seed)
    denoiser, peers = student(layers, diffusion), {"teacher": exact(diffusion)}
    while True:
        x_0 = CLEAN[torch.multinomial(LAW, BATCH, True, generator=generator)]
        step = TrainingStep(x_0, diffusion, denoiser, peers, 0.0, generator, GRID, memory=memory)
        layers.zero_grad()
        objective(step)["student"].backward()
        yield torch.cat([p.grad.flatten() for p in layers.parameters()])


def trained(layers, diffusion, objective, seed, steps):
    """A copy of the layers after `steps` of Adam, its rate decayed from 3e-3 to 0."""
    layers = copy.deepcopy(layers)
    optimizer = torch.optim.Adam(layers.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
    for _ in zip(range(steps), gradients(layers, diffusion, objective, seed), strict=False):
        optimizer.step()
        decay.step()
    return layers


def measured(process, seed, steps, divergence):
    """One row for each start and each way of drawing times."""
    torch.manual_seed(seed)
    diffusion, layers = Diffusion(process, LogLinear(eps=1e-6)), perceptron(process.vocab_size)
    warm = trained(layers, diffusion, ECD(coupling="forward"), 1000 + seed, steps)
    for (start, first), config in itertools.product((("random", layers), ("warm", warm)), TIMES):
        ecd = ECD(divergence, coupling="forward", times=config)
        stream = gradients(copy.deepcopy(first), diffusion, ecd, seed)
        variance = float(torch.stack([next(stream) for _ in range(128)])[64:].var(0).sum())
        on_grid = config in (ADAPTIVE_GRID, "grid_times")
        points = torch.arange(1, GRID + 1) / GRID if on_grid else (torch.arange(16) + 0.5) / 16
        kl = distance(trained(first, diffusion, ecd, seed, steps), diffusion, points.tolist())
        name = config if isinstance(config, str) else "adaptive_grid_times"
        row = {"process": process.id, "start": start, "times": name, "divergence": divergence}
        yield row | {"seed": seed, "kl": kl, "variance": variance}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--divergence", default="forward_kl")
    parser.add_argument("--json", type=rows_file, help="where the rows go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    jobs = list(itertools.product((Absorbing(3), Uniform(2)), range(args.seeds)))
    rows = [row for job in tqdm(jobs) for row in measured(*job, args.steps, args.divergence)]
    for key in dict.fromkeys((row["process"], row["start"], row["times"]) for row in rows):
        same = [row for row in rows if (row["process"], row["start"], row["times"]) == key]
        kl, variance = torch.tensor([[row["kl"], row["variance"]] for row in same]).mT
        spread = float(kl.std(correction=min(1, len(kl) - 1))) / len(kl) ** 0.5
        print(
            f"{' '.join(key):38} kl {kl.mean():.6f} +- {spread:.6f} variance {variance.mean():.3g}"
        )
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
