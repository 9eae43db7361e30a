"""`hf-ddistill diagnose`: can p(x_0 | x_t) be recovered, and how far does an Euler step go?"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from hf_ddistill.cli.common import (
    add_device,
    add_seed,
    pick_device,
    positive,
    print_table,
    write_json,
)
from hf_ddistill.cli.console import is_terminal
from hf_ddistill.cli.data import load_data
from hf_ddistill.cli.diagnosis_plot import save_diagnosis
from hf_ddistill.cli.diagnosis_training import start_rows
from hf_ddistill.cli.members import build_diffusion
from hf_ddistill.cli.tokens import add_mask, name_mask
from hf_ddistill.cli.values import number, png_file, setting, whole
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diagnosis.conditioning import (
    STEPS,
    TIMES,
    Noised,
    Row,
    diagnose,
    noised_at_random,
    noised_by_model,
)
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.hub import load_model
from hf_ddistill.models import as_denoiser, unwrapped
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.samplers import Ancestral, Canvas

HELP = "where conditionals can be recovered from ratios, and where Euler steps break"
#: Tokens of a model's own samples where its config does not fix the length, and the steps to them.
LENGTH, SAMPLE_STEPS = 32, 16
#: Numbers in one (positions, K) tensor, at most.
MAX_NUMBERS = 2**21
TITLES = {
    "condition": "Condition number of recovery (2-norm, at the worst token), of the kernel alone",
    "recovery": "Error of p(x_0 | x_t) recovered from ratios; clamped: and renormalised",
    "euler": "One Euler step of length h against the exact one; clipped: leaves with P > 1",
    "commutation": "Commutation of the rates over time",
    "start": "Training from the model's weights (warm) and from fresh ones (random)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", nargs="?", help="folder or Hub id of a masked LM, ours or any")
    parser.add_argument(
        "--process", type=setting, help="instead of a model: an id, or JSON (default: a model's)"
    )
    parser.add_argument(
        "--vocab-size",
        type=positive,
        help="with --process: K, mask included (default: that of its JSON)",
    )
    parser.add_argument(
        "--schedule", type=setting, help="with --process: an id or JSON (default: log_linear)"
    )
    add_mask(parser)
    parser.add_argument(
        "--data", help="with a model: clean data, as for `teacher` (default: its own samples)"
    )
    parser.add_argument("--split", default="train", help="of --data")
    parser.add_argument("--streaming", action="store_true", help="read the data as a stream")
    parser.add_argument(
        "--length", type=positive, help=f"tokens in a row (default: the model's, at most {LENGTH})"
    )
    parser.add_argument("--sequences", type=positive, default=8, help="rows of data or samples")
    share = number(0, 1, "(")
    parser.add_argument("--times", type=share, nargs="+", default=TIMES, help="in (0, 1]")
    parser.add_argument(
        "--steps", type=share, nargs="+", default=STEPS, help="Euler's h, in (0, 1]"
    )
    parser.add_argument("--positions", type=positive, default=256, help="at each time, at most")
    parser.add_argument(
        "--start-steps",
        type=whole(),
        default=0,
        metavar="N",
        help="with a model and --data: also train N steps of ECD from its weights and fresh ones",
    )
    add_device(parser)
    parser.add_argument("--plot", type=png_file, metavar="FILE", help="write a plot as PNG")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the files."""
    _check(args)
    generator = torch.Generator().manual_seed(args.seed)
    if args.model is None:
        diffusion = _diffusion(args)
        noised = _bare(diffusion, args, generator)
        subject = f"{diffusion.process.id}, K = {diffusion.vocab_size}"
    else:
        model = load_model(args.model, dtype=torch.float32)
        tokenizer = load_tokenizer(args.model) if has_tokenizer(args.model) else None
        name_mask(model, tokenizer, args.mask_token_id)
        denoiser = as_denoiser(model.to(pick_device(args.device)).eval())
        diffusion = denoiser.diffusion
        noised = _predicted(denoiser, _clean(denoiser, args, generator), args, generator)
        subject = f"{args.model} ({diffusion.process.id}, K = {diffusion.vocab_size})"
    shown = tqdm(
        noised, total=len(args.times), desc="times", leave=False, disable=not is_terminal()
    )
    rows = list(diagnose(diffusion, shown, args.steps, generator))
    if args.start_steps:
        rows += start_rows(unwrapped(denoiser.networks()[0]), args)
    print(f"{subject}, {diffusion.schedule.id}; '-': more than float64 can tell")
    print_sections(rows)
    write_json(args.json, {"rows": rows})
    if args.plot is not None:
        save_diagnosis(Path(args.plot), rows, subject)
    return 0


def print_sections(rows: Sequence[Row]) -> None:
    """One table for each section; columns that say nothing are left out."""
    for section, title in TITLES.items():
        members = [row for row in rows if row["section"] == section]
        if not members:
            continue
        told = [key for key in members[0] if any(row[key] is not None for row in members)]
        told.remove("section")
        print(f"\n{title}")
        print_table([{k: "-" if row[k] is None else row[k] for k in told} for row in members])


def _check(args: argparse.Namespace) -> None:
    if (args.model is None) == (args.process is None):
        raise ValueError("Give either a model or --process, one of the two.")
    bare, of_model = ("vocab_size", "schedule"), ("data", "length", "device")
    for name in bare if args.process is None else of_model:
        if getattr(args, name) is not None:
            other = "--process; a model has its own" if name in bare else "a model, not --process"
            raise ValueError(f"--{name.replace('_', '-')} goes with {other}.")
    if args.start_steps and args.data is None:
        raise ValueError("--start-steps trains: it needs a model and --data.")


def _diffusion(args: argparse.Namespace) -> Diffusion:
    if args.vocab_size is None and not args.process.startswith("{"):
        raise ValueError(f"--process {args.process} needs --vocab-size (K, the mask included).")
    schedule = args.schedule or "log_linear"
    return build_diffusion(args.process, schedule, args.vocab_size, args.mask_token_id)


def _bare(
    diffusion: Diffusion, args: argparse.Namespace, generator: torch.Generator
) -> Iterator[Noised]:
    positions = _positions(args, diffusion)
    return (noised_at_random(diffusion, t, positions, generator) for t in sorted(args.times))


def _predicted(
    denoiser: Denoiser, x_0: Tensor, args: argparse.Namespace, generator: torch.Generator
) -> Iterator[Noised]:
    positions = _positions(args, denoiser.diffusion)
    return (noised_by_model(denoiser, x_0, t, positions, generator) for t in sorted(args.times))


def _positions(args: argparse.Namespace, diffusion: Diffusion) -> int:
    return max(1, min(args.positions, MAX_NUMBERS // diffusion.vocab_size))


def _clean(denoiser: Denoiser, args: argparse.Namespace, generator: torch.Generator) -> Tensor:
    """x_0 (B, L): the data's first rows, or the model's own samples."""
    config = unwrapped(denoiser.networks()[0]).config
    shape = getattr(config, "token_shape", None)
    most = getattr(config, "max_position_embeddings", LENGTH)
    length = args.length or (math.prod(shape) if shape else min(LENGTH, most))
    device = denoiser.networks()[0].device
    if args.data is None:
        canvas = Canvas.empty((args.sequences, length), device)
        return Ancestral().sample(denoiser, canvas, SAMPLE_STEPS, generator)
    rows = list(itertools.islice(load_data(args), args.sequences))
    if rows and "input_ids" in rows[0]:
        sizes = {len(row["input_ids"]) for row in rows}
        if len(sizes) != 1:
            raise ValueError(f"The rows of --data differ in length: {sorted(sizes)}.")
        tokens = torch.tensor([row["input_ids"] for row in rows])
    elif rows and "text" in rows[0]:
        tokens = _tokenized([row["text"] for row in rows], args.model, length)
    else:
        raise ValueError(f"--data {args.data} has no rows with 'input_ids' or 'text'.")
    denoiser.diffusion.check_tokens(tokens)
    return tokens.to(device)


def _tokenized(texts: Sequence[str], model: str, length: int) -> Tensor:
    """The texts behind one another, in rows of `length` tokens."""
    tokenizer = load_tokenizer(model)
    ids = tokenizer("\n".join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < length:
        raise ValueError(f"--data has {len(ids)} tokens, fewer than one row of {length}.")
    return torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)
