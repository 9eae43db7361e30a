"""The cost of ECD outside the networks as the vocabulary grows: bytes and time to K = 152k.

    python examples/benchmarks/vocabulary.py [--json FILE]

The networks are replaced by tables of logits (64 masked tokens each), so what is measured is the
coupling, both conditionals, the divergence and its backward pass. Peak bytes are those of live
tensors, counted by a dispatch mode; times are medians inside one run.
"""

import argparse
import json
import statistics
import time
import weakref

import torch
from benchmark_files import rows_file
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ddistill import Absorbing, Diffusion, Uniform
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.objectives import ECD
from hf_ddistill.parameterizations import Conditional, Subs

TOKENS = 64


class PeakBytes(TorchDispatchMode):
    """The largest sum of bytes of storages that were alive at one time inside the mode."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, torch.Tensor):
                self._count(item.untyped_storage())
        return out

    def _count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self.alive.discard(key)
        self.now -= size


def measure(process, settings, repeats=3):
    generator = torch.Generator().manual_seed(0)
    diffusion, k = Diffusion(process), process.vocab_size
    tables = [torch.randn(TOKENS, k, generator=generator).requires_grad_(i == 0) for i in (0, 1)]

    def table(logits):
        return lambda x_t, t, at: logits[: len(at)]

    student, teacher = (
        NetworkDenoiser(table(t), diffusion, Subs() if diffusion.reveals else Conditional())
        for t in tables
    )
    x_0 = torch.randint(0, k - 1, (1, TOKENS), generator=generator)

    def work():
        step = TrainingStep(x_0, diffusion, student, {"teacher": teacher}, 0.0, generator)
        loss = ECD(**settings)(step)["student"]
        if loss.requires_grad:
            loss.backward()
        tables[0].grad = None

    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    with PeakBytes() as watch:
        work()
    return {
        "process": type(process).id,
        "K": k,
        **{key: str(value) for key, value in settings.items()},
        "peak_bytes": watch.peak,
        "bytes_per_token_and_entry": round(watch.peak / (TOKENS * k), 1),
        "milliseconds": round(1e3 * statistics.median(seconds), 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    rows = []
    for family in (Absorbing, Uniform):
        for settings in ({}, {"top_k": 16}):
            for k in (1_000, 10_000, 151_936):
                rows.append(measure(family(k), settings))
                print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
