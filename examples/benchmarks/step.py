"""What a sampling step and an ECD step cost: tokens per second, time outside the networks, bytes.

    python examples/benchmarks/step.py [--quick] [--json FILE]

Six layers, 256 wide, L = 128, B = 16, K = 28 and 512 (the base), then each of K, L and B varied.
Times are medians of repetitions inside one run; only their ratios carry to another machine. The
network's time is measured by wrapping its forward and its backward; `largest` is the largest
tensor made outside the networks, in units of B * L * K numbers (K times that would be a K x K
matrix for each token), `peak_bytes` of tensors made during the step, activations included.
"""

import argparse
import json
import statistics
import time

import torch
from benchmark_files import rows_file
from torch.utils._python_dispatch import TorchDispatchMode
from vocabulary import PeakBytes

from hf_ddistill import (
    Absorbing,
    AncestralScheduler,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    Uniform,
    as_denoiser,
)
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.objectives import ECD


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation outside a network gives."""

    def __init__(self):
        super().__init__()
        self.numel, self.inside = 0, False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not self.inside:
            for item in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(item, torch.Tensor):
                    self.numel = max(self.numel, item.numel())
        return out


class Timed(torch.nn.Module):
    """A model that adds up the time of its forward passes."""

    def __init__(self, model, watch):
        super().__init__()
        self.module, self.watch, self.seconds = model, watch, 0.0

    def forward(self, **kwargs):
        self.watch.inside, started = True, time.perf_counter()
        out = self.module(**kwargs)
        self.watch.inside, self.seconds = False, self.seconds + time.perf_counter() - started
        return out


def model_of(vocab_size, length):
    torch.manual_seed(0)
    config = DDiTConfig(vocab_size=vocab_size, max_position_embeddings=length)
    return DDiTForDiscreteDiffusion(config)


def measure(process, length, batch, repeats):
    """One row: seconds and shares of a sampling step and of an ECD step."""
    k, watch = process.vocab_size, Largest()
    diffusion = Diffusion(process)
    student = Timed(model_of(k, length), watch)
    teacher = Timed(model_of(k, length).eval().requires_grad_(False), watch)
    denoisers = [as_denoiser(m, diffusion) for m in (student, teacher)]
    scheduler = AncestralScheduler(**diffusion.to_config())
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(0, k - 1, (batch, length), generator=generator)

    def sampling():
        t = scheduler.timesteps[1]
        x_t = diffusion.corrupt(x_0, 0.75, generator)
        started = time.perf_counter()
        with torch.no_grad():
            log_p = denoisers[1](x_t, t).log_conditional
            scheduler.step(log_p, t, x_t, generator=generator)
        return time.perf_counter() - started, teacher.seconds

    def distilling():
        step = TrainingStep(x_0, diffusion, denoisers[0], {"teacher": denoisers[1]}, 0.0, generator)
        started = time.perf_counter()
        loss = ECD()(step)["student"]
        middle = student.seconds + teacher.seconds
        # Backward through the loss alone stops at the student's logits; the rest is the network's.
        logits = watch_logits.pop()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        outside = time.perf_counter() - started - middle
        watch.inside, backward = True, time.perf_counter()
        logits.backward(gradient)
        watch.inside = False
        network = middle + time.perf_counter() - backward
        return outside + network, network

    watch_logits = []
    student.register_forward_hook(lambda m, a, out: watch_logits.append(out.logits))
    row = {"process": type(process).id, "K": k, "L": length, "B": batch}
    for name, work in (("sampling", sampling), ("ecd", distilling)):
        times = []
        for _ in range(repeats + 1):
            student.seconds = teacher.seconds = 0.0
            times.append(work())
            watch_logits.clear()
        total = statistics.median(t for t, _ in times[1:])
        row[f"{name}_seconds"] = round(total, 4)
        row[f"{name}_tokens_per_second"] = round(batch * length / total)
        row[f"{name}_network_share"] = round(statistics.median(n / t for t, n in times[1:]), 3)
        student.seconds = teacher.seconds = 0.0
        with watch:
            work()
        row[f"{name}_largest"] = round(watch.numel / (batch * length * k), 2)
        watch.numel = 0
        with PeakBytes() as bytes_alive:
            work()
        row[f"{name}_peak_bytes"] = bytes_alive.peak
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the two base rows alone, 2 repeats")
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    base = [(Absorbing(28), 128, 16), (Absorbing(512), 128, 16)]
    more = [(Uniform(28), 128, 16), (Uniform(512), 128, 16)]
    more += [(Absorbing(k), 128, 16) for k in (128, 2048, 8192)]
    more += [(Absorbing(512), n, 16) for n in (64, 256)] + [
        (Absorbing(512), 128, b) for b in (4, 64)
    ]
    rows = []
    for process, length, batch in base if args.quick else base + more:
        rows.append(measure(process, length, batch, 2 if args.quick else 5))
        print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
