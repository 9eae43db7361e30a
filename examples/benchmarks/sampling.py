"""What a sample costs outside the network, against others' loops: in turn, in one process.

    python examples/benchmarks/sampling.py [--sizes a c d] [--calls 4 16] [--json FILE]
    python examples/benchmarks/sampling.py --growth | --memory | --draw [--json FILE]
    python examples/benchmarks/sampling.py --device cuda [--json FILE]     (untried: no GPU was had)

A row is one way to sample (`sampling_ways.py`) at one size and number of calls: `cost` is its
process CPU time in bare forward passes of the same network, per call; ways take turns (A B A B),
and the median over rounds is kept. Where a whole run would take long, others' loops are timed over
`timed` of its steps, from x_t half noised; ours always runs whole. Only ratios within one run carry
over to another machine.

`--growth` fits exponents to our time and memory as K, L, B and the number of calls grow. `--memory`
measures the peak resident memory of each way above a loaded model, in (B, L, K) float32 tensors, in
fresh processes; `--draw` what one draw takes. `--device cuda`: tokens per second in bfloat16, with
and without torch.compile.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from benchmark_files import rows_file
from sampling_ways import WAYS, Steps, bare, ours
from vocabulary import PeakBytes

from hf_ddistill import Absorbing, DDiTConfig, DDiTForDiscreteDiffusion, Diffusion, Uniform
from hf_ddistill.linalg import categorical_of_logs
from hf_ddistill.models import as_denoiser
from hf_ddistill.parameterizations.sharpening import sharpened

#: By name: K, L, B, layers, width.
SIZES = {
    "a": (28, 128, 16, 6, 256),
    "b": (512, 128, 16, 6, 256),
    "c": (8192, 128, 8, 6, 256),
    "d": (50258, 256, 2, 6, 256),
    "e": (50258, 1024, 1, 6, 256),
    "mdlm-small": (50258, 256, 1, 12, 768),
    "memory": (151936, 128, 1, 2, 64),
}
ONE = Steps(1, 1)


def model_of(size, process, **changes):
    """A network of random weights that knows its process."""
    k, length, _, layers, width = SIZES[size] if isinstance(size, str) else size
    torch.manual_seed(0)
    config = DDiTConfig(
        vocab_size=k,
        max_position_embeddings=length,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        time_conditioning=False,
        mask_token_id=k - 1,
        **changes,
    )
    model = DDiTForDiscreteDiffusion(config).eval()
    family = {"absorbing": Absorbing, "uniform": Uniform}[process]
    as_denoiser(model, Diffusion(family(k)), "subs" if process == "absorbing" else "conditional")
    return model


def start(model, batch, length, process):
    if process == "absorbing":
        return torch.full((batch, length), model.config.mask_token_id)
    return torch.randint(model.config.vocab_size, (batch, length))


def cpu_seconds(work, *args):
    began = time.process_time()
    work(*args)
    return time.process_time() - began


@torch.no_grad()
def compared(size, process, calls, args):
    """Rows of all ways at one size and number of calls."""
    k, length, batch, layers, width = SIZES[size]
    model = model_of(size, process)
    noise = start(model, batch, length, process)
    half = torch.where(torch.rand(noise.shape) < 0.5, torch.randint(k - 1, noise.shape), noise)
    ways = {n: w for n, w in WAYS[process].items() if not args.ways or n in args.ways}
    timed = {n: Steps(calls, calls if n == "ours" else min(calls, args.most)) for n in ways}
    units, costs = [], {name: [] for name in ways}
    bare(model, noise, ONE)
    for _ in range(args.rounds):
        for name, way in ways.items():
            steps = timed[name]
            unit = cpu_seconds(bare, model, noise, ONE)
            seconds = cpu_seconds(way, model, noise if steps.some == calls else half, steps)
            unit = (unit + cpu_seconds(bare, model, noise, ONE)) / 2
            units.append(unit)
            costs[name].append(seconds / steps.some / unit)
    shape = {"size": size, "K": k, "L": length, "B": batch, "layers": layers, "width": width}
    shape |= {"process": process, "calls": calls}
    return [
        {
            **shape,
            "way": name,
            "timed": timed[name].some,
            "cost": round(statistics.median(values), 3),
            "least": round(min(values), 3),
            "most": round(max(values), 3),
            "unit_seconds": round(statistics.median(units), 4),
        }
        for name, values in costs.items()
    ]


@torch.no_grad()
def growth():
    """Fitted exponents of our CPU time and peak bytes of a whole sample over K, L, B and calls."""
    base = {"K": 8192, "L": 128, "B": 4, "calls": 16}
    scales = {"K": (2048, 8192, 32768), "L": (64, 128, 256), "B": (2, 4, 8), "calls": (4, 16, 64)}
    rows = []
    for process in ("absorbing", "uniform"):
        for name, values in scales.items():
            seconds, forward, peaks = [], [], []
            for value in values:
                at = base | {name: value}
                size = (at["K"], at["L"], at["B"], 2, 128)
                model = model_of(size, process)
                x, steps = start(model, at["B"], at["L"], process), Steps(at["calls"], at["calls"])
                ours(model, x, steps)
                seconds.append(min(cpu_seconds(ours, model, x, steps) for _ in range(2)))
                forward.append(min(cpu_seconds(bare, model, x, steps) for _ in range(2)))
                with PeakBytes() as watch:
                    ours(model, x, steps)
                peaks.append(watch.peak)
            fitted = {
                what: round(float(np.polyfit(np.log(values), np.log(of), 1)[0]), 2)
                for what, of in (("time", seconds), ("bare_time", forward), ("bytes", peaks))
            }
            rows.append({"process": process, "over": name, "values": list(values), **fitted})
            print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.no_grad()
def resident(size, process, name, calls):
    """Peak resident memory of one way above the loaded model, in units; for a fresh process."""
    k, length, batch, _, _ = SIZES[size]
    model = model_of(size, process)
    x = start(model, batch, length, process)
    # Whatever is loaded at the first call, at a length that needs little.
    way = bare if name == "bare" else WAYS[process][name]
    way(model, x[:1, :2], Steps(2, 2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    way(model, x, Steps(calls, calls))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return round(peak * 1024 / (4 * batch * length * k), 2)


def memory(calls):
    """Rows of peak resident memory, each from a process of its own."""
    rows = []
    for size in ("d", "memory"):
        for process, ways in WAYS.items():
            for name in ("bare", *ways):
                command = [sys.executable, __file__, "--resident", size, process, name]
                command += ["--calls", str(calls)]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                row = {"size": size, "process": process, "way": name, "calls": calls}
                rows.append({**row, "peak_units": float(out.split()[-1])})
                print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.no_grad()
def drawing():
    """Rows of one draw from (1, 128, 151936) log-probabilities of two sharpnesses: CPU time in
    log-softmaxes of them, and bytes that were alive at one time in tensors of their size."""
    rows = []
    for spread in (1.0, 4.0):
        x = (spread * torch.randn(1, 128, 151936)).log_softmax(-1)
        for settings in ({}, {"temperature": 0.7}, {"top_k": 50}, {"top_p": 0.9}):

            def draw(x=x, settings=settings):
                categorical_of_logs(sharpened(x, **settings) if settings else x)

            draw()
            costs = [cpu_seconds(draw) / cpu_seconds(torch.log_softmax, x, -1) for _ in range(3)]
            with PeakBytes() as watch:
                draw()
            row = {"spread": spread, "settings": json.dumps(settings)}
            row |= {"cost": round(statistics.median(costs), 2)}
            rows.append(row | {"peak_units": round(watch.peak / x.nbytes - 1, 2)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.no_grad()
def on_gpu(calls):
    """Tokens per second at MDLM-small size in bfloat16. Untried: written without a GPU."""
    rows = []
    for compiled in (False, True):
        for process, ways in WAYS.items():
            model = model_of("mdlm-small", process).to("cuda", torch.bfloat16)
            if compiled:
                model.forward = torch.compile(model.forward)
            x = start(model, 32, 256, process).cuda()
            for name, way in {"bare": bare, **ways}.items():
                way(model, x, Steps(calls, calls))
                torch.cuda.synchronize()
                began = time.perf_counter()
                way(model, x, Steps(calls, calls))
                torch.cuda.synchronize()
                rate = round(x.numel() / (time.perf_counter() - began))
                rows.append({"process": process, "way": name, "calls": calls})
                rows[-1] |= {"compiled": compiled, "tokens_per_second": rate}
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["a", "c", "d"])
    parser.add_argument("--calls", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--processes", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--ways", nargs="+", help="some of the ways alone, by name")
    parser.add_argument("--most", type=int, default=4, help="steps of others' loops, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--resident", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.resident:
        print(resident(*args.resident, args.calls[0]))
        return
    if args.device == "cuda":
        rows = [row for calls in args.calls for row in on_gpu(calls)]
    elif args.growth or args.memory or args.draw:
        rows = (growth() if args.growth else []) + (memory(args.calls[-1]) if args.memory else [])
        rows += drawing() if args.draw else []
    else:
        rows = []
        for size in args.sizes:
            for process in args.processes:
                for calls in args.calls:
                    rows += compared(size, process, calls, args)
                    print(*map(json.dumps, rows[-len(args.ways or WAYS[process]) :]), sep="\n")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
