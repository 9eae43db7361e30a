"""From an autoregressive law to block diffusion where both laws are known.

    python examples/benchmarks/exact_blocks.py --output examples/results/exact_blocks.json

A small Llama is trained on 2 x 4 patches of digits (6,561 sequences); its law p is computed whole.
Sections: `bias` (targets of a per-token loss against the posterior), `tables` (students that are
tables and reach the optimum of their loss), `limits` (tables that descend the divergence of their
law), `estimates` (the mended target from few scored sequences), `students` (Llamas converted and
trained), `matching` (law matching on top of them). TV is the total variation between p and a
student's exact law; b tokens in a block, n calls for each, in random order unless told.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from block_targets import prefix, table_bias
from llama_lab import (
    DIFFUSION,
    LENGTH,
    LEVELS,
    MASK,
    BlockLab,
    LabSettings,
    Method,
    patches,
    student_of,
    train_llama,
)
from on_policy import on_policy_table, re_scored
from transformers import LlamaForCausalLM

from hf_ddistill.couplings import TrainingStep, Trajectory, random_masks
from hf_ddistill.laboratory import all_sequences, entropy, kl_divergence, total_variation
from hf_ddistill.laboratory.blocks import block_table
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, block_law
from hf_ddistill.linalg import categorical
from hf_ddistill.objectives import BD3LM, OPDLM, CausalLawMatching
from hf_ddistill.objectives.alternation import Alternation
from hf_ddistill.objectives.blocks.posterior_target import PosteriorTarget
from hf_ddistill.unmasking import Static, Threshold, Unmasking

BLOCKS = (1, 2, 4, 8)
ORDERS = ("left_to_right", "random", "entropy", "confidence")


def calls_of(b):
    return [n for n in (1, 2, 4, 8) if n <= b]


def measured(denoiser, p, b, n, rule="random"):
    """One row: how far a decoder's law is from p."""
    rule = rule if isinstance(rule, Unmasking) else Static(rule)
    with torch.no_grad():
        found = block_law(BlockDecoder(denoiser, LENGTH, b, rule, n))
    return {
        "tv": float(total_variation(p, found.law)),
        "kl": float(kl_divergence(p, found.law)),
        "reverse_kl": float(kl_divergence(found.law, p)),
        "entropy": float(entropy(found.law)),
        "network_calls": found.calls,
    }


def bias(lab):
    """KL(posterior || target), nats per masked token."""
    for b in BLOCKS:
        targets = {
            "prefix, x_0 of the teacher": block_table(lab.law, b, DIFFUSION, prefix),
            "prefix, own rollouts, n = b": on_policy_table(lab.law, b, DIFFUSION, b),
            "re-scored, own rollouts, n = b": on_policy_table(lab.law, b, DIFFUSION, b, re_scored),
        }
        for name, table in targets.items():
            yield {"target": name, "b": b, "kl": table_bias(lab.law, table)}


def tables(lab):
    """Students that say exactly what their target says."""
    for b in BLOCKS:
        posterior = block_table(lab.law, b, DIFFUSION).denoiser()
        off = block_table(lab.law, b, DIFFUSION, prefix).denoiser()
        for n in calls_of(b):
            own = on_policy_table(lab.law, b, DIFFUSION, n).denoiser()
            mended = on_policy_table(lab.law, b, DIFFUSION, n, re_scored).denoiser()
            named = {"posterior": posterior, "prefix, random masks": off}
            named |= {"prefix, own rollouts": own, "re-scored, own rollouts": mended}
            for name, denoiser in named.items():
                yield {"student": name, "b": b, "n": n, **measured(denoiser, lab.law, b, n)}
        for order in [*ORDERS, Threshold(0.9)] if b in (2, 4) else []:
            for name, denoiser in {"posterior": posterior, "prefix, random masks": off}.items():
                rule = order if isinstance(order, str) else order.to_config()["type"]
                row = {"student": name, "b": b, "n": b, "order": rule}
                yield {**row, **measured(denoiser, lab.law, b, b, order)}


def limits(lab, updates=60):
    """The least KL(student || p) that Adam finds for a table, from the posterior with noise."""
    for b, n in ((2, 1), (4, 1), (4, 2), (8, 1), (8, 2), (8, 4)):
        table = block_table(lab.law, b, DIFFUSION)
        generator = torch.Generator().manual_seed(0)
        for logits in table.logits:
            noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
            logits.data.clamp_min_(-9).add_(0.1 * noise)
        optimizer = torch.optim.Adam(table.parameters(), 0.1, betas=(0.9, 0.99))
        for update in range(updates):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - update / updates) + 1e-3
            law = block_law(BlockDecoder(table.denoiser(), LENGTH, b, Static("random"), n)).law
            optimizer.zero_grad()
            kl_divergence(law, lab.law).backward()
            optimizer.step()
        row = {"student": "limit of law matching", "b": b, "n": n}
        yield {**row, **measured(table.denoiser(), lab.law, b, n)}


def estimates(lab, states=150, repeats=200):
    """Mean and spread of `PosteriorTarget` over its draws, at random states."""
    every = all_sequences(torch.arange(LEVELS), LENGTH)
    #: name: (candidates, completions, whether x_0 given x_t follows the teacher)
    kinds = {"prefix": (0, None, True), "re-scored, x_0 of the teacher": (LEVELS, None, True)}
    kinds |= {"prefix, x_0 of one call": (0, None, False)}
    kinds |= {f"re-scored, k = {k}, x_0 of one call": (k, None, False) for k in (1, 2, 3)}
    kinds["weighted prefixes, m = 8"] = (0, 8, False)
    kinds |= {f"re-scored and weighted, m = {m}": (LEVELS, m, False) for m in (2, 4, 8)}
    for b in (2, 4, 8):
        table = block_table(lab.law, b, DIFFUSION)
        generator = torch.Generator().manual_seed(0)
        x = every[torch.multinomial(lab.law, states, True, generator=generator)]
        only = torch.zeros_like(x, dtype=torch.bool)
        only[:, -b:] = True
        where = random_masks(x, only, b, generator)
        x_t = x.masked_fill(where, MASK)
        true = table.denoiser().at(x_t, 1.0, where, clean_ids=x).log_conditional.detach()
        for name, (k, m, exact) in kinds.items():
            found = []
            for _ in range(repeats):
                x_0 = x.masked_scatter(where, categorical(true[:, 0].exp(), generator))
                x_0 = redrawn(lab, x, where, generator) if exact else x_0
                path = Trajectory(torch.zeros_like(x_0), b)
                step = TrainingStep(x_0, DIFFUSION, lab.teacher, {"teacher": lab.teacher})
                step = replace(step, generator=generator, trajectory=path)
                found.append(PosteriorTarget(k, m)(step, where, true)[:, 0].exp())
            found, p = torch.stack(found), true[:, 0].exp()
            mean = found.mean(0).clamp_min(1e-12).log()
            kl = (p * (true[:, 0].clamp_min(-50) - mean)).where(p > 0, 0.0).sum(-1)
            spread = (found - p).abs().sum(-1).mean() / 2
            row = {"estimate": name, "b": b, "kl": float(kl.mean()), "spread": float(spread)}
            yield {**row, "scored": (m or 1) * (1 + (b - 1) * k)}


def redrawn(lab, x, where, generator):
    """Sequences of the teacher that agree with x outside `where`."""
    every = all_sequences(torch.arange(LEVELS), LENGTH)
    agree = ((every[None] == x[:, None]) | where[:, None]).all(-1)
    return every[categorical(agree * lab.law, generator)]


METHODS = {
    "plain fine-tuning": Method(BD3LM(), rollouts=False),
    "opdlm": Method(OPDLM(), settings={"reuse": 4}),
    "opdlm, posterior target": Method(OPDLM(target=PosteriorTarget(LEVELS)), settings={"reuse": 4}),
}
LAW_MATCHING = Method(
    CausalLawMatching(pathwise=True),
    settings={
        "rows": 256,
        "learning_rate": 1e-3,
        "steps": 1600,
        "alternation": Alternation(200, 4),
    },
)


def students(lab, blocks=BLOCKS):
    """Llamas, one for each block; their rollouts have n = b calls."""
    for b in blocks:
        for name, method in METHODS.items():
            begun = time.perf_counter()
            settings = replace(lab.settings, **method.settings)
            model = train_llama(lab, method, lab.start(b), b, settings)
            row = {"student": name, "b": b, "seconds": time.perf_counter() - begun}
            for n in calls_of(b):
                yield {**row, "n": n, **measured(student_of(model), lab.law, b, n)}


def matching(lab, blocks=BLOCKS[1:]):
    """Law matching: a Llama for each block and number of calls, from plain fine-tuning."""
    for b in blocks:
        plain = train_llama(lab, METHODS["plain fine-tuning"], lab.start(b), b, lab.settings)
        for n in reversed(calls_of(b)[:-1]):
            begun = time.perf_counter()
            settings = replace(lab.settings, **LAW_MATCHING.settings)
            model = train_llama(lab, LAW_MATCHING, plain, n, settings)
            row = {"student": "causal_law_matching", "b": b, "n": n}
            row["seconds"] = time.perf_counter() - begun
            yield {**row, **measured(student_of(model), lab.law, b, n)}


SECTIONS = {f.__name__: f for f in (bias, tables, limits, estimates, students, matching)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sections", nargs="+", default=["bias", "tables", "estimates", "students"]
    )
    parser.add_argument("--blocks", nargs="+", type=int, help="of `students` and `matching`")
    parser.add_argument("--lm-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lm", type=Path, help="folder that keeps the language model")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    data = patches()
    begun = time.perf_counter()
    settings = LabSettings(steps=args.steps, lm_steps=args.lm_steps)
    if args.lm is not None and args.lm.is_dir():
        lab = BlockLab(LlamaForCausalLM.from_pretrained(args.lm).eval(), settings)
    else:
        lab = BlockLab.fitted(settings, data)
    if args.lm is not None:
        lab.lm.save_pretrained(args.lm)
    found = json.loads(args.output.read_text()) if args.output.is_file() else {}
    found["teacher"] = {
        "entropy": float(entropy(lab.law)),
        "tv_to_the_data": float(total_variation(data, lab.law)),
        "kl_of_the_data": float(kl_divergence(data, lab.law)),
        "seconds": time.perf_counter() - begun,
    }
    print(found["teacher"], flush=True)
    for section in args.sections:
        found[section] = []
        trained = section in ("students", "matching") and args.blocks is not None
        for row in SECTIONS[section](lab, **({"blocks": args.blocks} if trained else {})):
            rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}
            found[section].append(rounded)
            print(section, rounded, flush=True)
            args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
