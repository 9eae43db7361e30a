"""What a training step costs against the same step in plain torch.

    python examples/benchmarks/training_step.py [--quick] [--objectives ecd ...] [--json FILE]

A step is the loss, backward, clipping, fused AdamW and the running mean of the weights, of DDiT
with 6 layers of 256, or for objectives of block diffusion of a Llama of that size, on blocks of 8
that were decoded in four calls. The two take turns in one process (A B A B ...); times are those of
the processor (`time.process_time`), and a row holds the median of the ratios of neighbours, their
least and their greatest, and the ratio of the least times. `shares` are of the bare step: the loss,
backward, the mean of weights. The bare steps are in `bare_training.py` and `bare_blocks.py`.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import torch
from bare_blocks import BARE_BLOCKS, BlockNets
from bare_training import BARE, Nets
from benchmark_files import rows_file
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill import (
    Absorbing,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    Objective,
    as_denoiser,
    to_block_diffusion,
)
from hf_ddistill.couplings import Memory, TrainingStep, Trajectory
from hf_ddistill.training.callbacks.ema import WeightAverage

SIZES = {"512": (512, 128, 16), "8192": (8192, 128, 8), "50258": (50258, 256, 2)}
STEPS, NOISE, BLOCK, CALLS = 4, 8, 8, 4
#: What is set otherwise than by default.
SETTINGS = {
    "law_matching": {"horizon": "call"},
    "d2f": {"block_size": BLOCK},
    "outcome_reward": {"rollouts": {"group": 2}},
}
WITH_AUXILIARY = ("law_matching", "block_law_matching", "causal_law_matching")


@dataclass
class Batch:
    """Tokens, the call that decided each within its block of `size`, the reward of each row."""

    x_0: torch.Tensor
    rounds: torch.Tensor
    reward: torch.Tensor
    size: int = BLOCK

    @classmethod
    def drawn(cls, size, generator):
        vocabulary, length, rows = size
        x_0 = torch.randint(vocabulary - 1, (rows, length), generator=generator)
        order = torch.rand(x_0.shape, generator=generator).unflatten(1, (-1, BLOCK))
        rounds = order.argsort(-1).argsort(-1).flatten(1) * CALLS // BLOCK
        return cls(x_0, rounds, torch.rand(rows, generator=generator))


def models_of(name, size):
    """Student, teacher, auxiliary."""
    vocabulary, length, _ = size
    noise, models = {"noise_dim": NOISE} if name == "law_matching" else {}, []
    for number, more in enumerate((noise, {}, {})):
        torch.manual_seed(number)
        if name in BARE:
            config = DDiTConfig(vocab_size=vocabulary, max_position_embeddings=length, **more)
            models.append(DDiTForDiscreteDiffusion(config))
            continue
        text = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=length,
        )
        given = {"mask_token_id": vocabulary - 1, "block_size": BLOCK}
        models.append(to_block_diffusion(LlamaForCausalLM(text), **given)[0])
    return models


class Side:
    """Networks, optimizer and mean of one of the two."""

    def __init__(self, name, size):
        self.models = models_of(name, size)
        self.models[1].eval().requires_grad_(False)
        self.trained = self.models[::2] if name in WITH_AUXILIARY else self.models[:1]
        weights = [p for model in self.trained for p in model.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
        self.count = 0

    def step(self, batch):
        """One step; the seconds of the processor in the loss, in backward, in the mean, in all."""
        marks = [time.process_time()]
        loss = self.loss(batch)
        marks.append(time.process_time())
        loss.backward()
        marks.append(time.process_time())
        for model in self.trained:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.count += 1
        before = time.process_time()
        self.average()
        marks.append(time.process_time())
        return (
            marks[1] - marks[0],
            marks[2] - marks[1],
            marks[3] - before,
            marks[3] - marks[0],
        )


class Ours(Side):
    def __init__(self, name, size):
        super().__init__(name, size)
        self.objective = Objective.from_config({"type": name, **SETTINGS.get(name, {})})
        self.blocks = name in BARE_BLOCKS
        self.diffusion = Diffusion(Absorbing(size[0]))
        self.denoisers = [as_denoiser(model, self.diffusion) for model in self.models]
        self.mean, self.memory = WeightAverage(self.models[0], 0.999), Memory()
        self.generator = torch.Generator().manual_seed(0)
        # Law matching looks at the teacher on the data, too, in its first 20 steps.
        self.memory.of("law_matching").put("teacher_steps", torch.tensor(20))

    def loss(self, batch):
        student, teacher, auxiliary = self.denoisers
        peers = {"teacher": teacher, "auxiliary": auxiliary}
        peers = {name: peers[name] for name in self.objective.networks}
        more = {"memory": self.memory}
        if self.blocks:
            more |= {"trajectory": Trajectory(batch.rounds, BLOCK), "reward": batch.reward}
        about = (batch.x_0, self.diffusion, student, peers, 0.5, self.generator, STEPS)
        step = TrainingStep(*about, **more)
        return sum(loss.float() for loss in self.objective(step).values())

    def average(self):
        state = type("State", (), {"global_step": self.count})()
        self.mean.on_step_end(None, state, None)


class Bare(Side):
    def __init__(self, name, size):
        super().__init__(name, size)
        if name in BARE:
            of, nets = BARE[name], Nets(*self.models, size[0] - 1)
            self.of = lambda batch: of(nets, batch.x_0)
        else:
            of, nets = BARE_BLOCKS[name], BlockNets(*self.models, size[0] - 1)
            self.of = lambda batch: of(nets, batch)
        self.weights = list(self.models[0].parameters())
        self.mean = [weight.detach().clone() for weight in self.weights]

    def loss(self, batch):
        return self.of(batch)

    @torch.no_grad()
    def average(self):
        torch._foreach_lerp_(self.mean, self.weights, 0.001)


def measure(name, size, pairs):
    """One row."""
    vocabulary, length, rows = size
    ours, bare = Ours(name, size), Bare(name, size)
    generator = torch.Generator().manual_seed(1)
    times = {"ours": [], "bare": []}
    for pair in range(pairs + 1):
        batch = Batch.drawn(size, generator)
        for side, kind in ((ours, "ours"), (bare, "bare")):
            # The same numbers of masks would need the same draws: the mean over pairs does.
            seconds = side.step(batch)
            if pair:
                times[kind].append(seconds)
    totals = {kind: [each[-1] for each in seconds] for kind, seconds in times.items()}
    mean = statistics.fmean(totals["bare"])
    ratios = [a / b for a, b in zip(totals["ours"], totals["bare"], strict=True)]
    parts = zip(*(each[:3] for each in times["ours"]), strict=True)
    return {
        "objective": name,
        "K": vocabulary,
        "L": length,
        "B": rows,
        "pairs": pairs,
        "of_means": round(statistics.fmean(totals["ours"]) / mean, 3),
        "median": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "of_least": round(min(totals["ours"]) / min(totals["bare"]), 3),
        "shares": [round(statistics.fmean(part) / mean, 3) for part in parts],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smallest size, 2 pairs")
    names = [*BARE, *BARE_BLOCKS]
    parser.add_argument("--objectives", nargs="+", default=names, choices=names)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in args.sizes[:1] if args.quick else args.sizes:
        for name in args.objectives:
            rows.append(measure(name, SIZES[size], 2 if args.quick else args.pairs))
            print(json.dumps(rows[-1]), flush=True)
            if args.json:
                args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
