"""`hf-ddistill diagnose`: can p(x_0 | x_t) be recovered, and how far does an Euler step go?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hf_ddistill.cli.common import (
    pick_device,
    print_table,
    write_json,
)
from hf_ddistill.cli.data import load_data
from hf_ddistill.cli.diagnosis_plot import save_diagnosis
from hf_ddistill.cli.diagnosis_training import start_rows
from hf_ddistill.cli.kept_times import keep_times
from hf_ddistill.cli.members import build_diffusion
from hf_ddistill.cli.options.diagnose import LENGTH, DiagnoseOptions
from hf_ddistill.cli.terminal import is_terminal
from hf_ddistill.cli.tokens import name_mask
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diagnosis.conditioning import (
    Noised,
    Row,
    diagnose,
    noised_at_random,
    noised_by_model,
)
from hf_ddistill.diagnosis.step_times import time_rows
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.hub import load_model
from hf_ddistill.models import BlockDiffusionLM, as_denoiser, unwrapped
from hf_ddistill.models.held import blank_canvas
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.outputs import check_folder
from hf_ddistill.samplers import Ancestral
from hf_ddistill.training.texts import Packing, Texts

#: Steps to a model's own samples.
SAMPLE_STEPS = 16
#: Numbers in one (positions, K) tensor, at most.
MAX_NUMBERS = 2**21
TITLES = {
    "condition": "Condition number of recovery (2-norm, at the worst token), of the kernel alone",
    "recovery": "Error of p(x_0 | x_t) recovered from ratios; clamped: and renormalised",
    "euler": "One Euler step of length h against the exact one; clipped: leaves with P > 1",
    "commutation": "Commutation of the rates over time",
    "times": "Times at which N steps lose the least, in nats a sequence; even: of even shares",
    "start": "Training from the model's weights (warm) and from fresh ones (random)",
}


def run(options: DiagnoseOptions) -> int:
    """Measure, print the tables, write the files."""
    if options.output is not None:
        check_folder(options.output, overwrite=options.overwrite, sources=[options.model])
    generator = torch.Generator().manual_seed(options.seed)
    if options.model is None:
        diffusion = _diffusion(options)
        noised = _bare(diffusion, options, generator)
        subject = f"{diffusion.process.id}, K = {diffusion.vocab_size}"
    else:
        model = load_model(options.model, dtype=torch.float32)
        if options.output is not None and isinstance(model, BlockDiffusionLM):
            raise ValueError(f"--output: {options.model} decodes by blocks, which have no times.")
        tokenizer = load_tokenizer(options.model) if has_tokenizer(options.model) else None
        name_mask(model, tokenizer, options.mask_token_id)
        denoiser = as_denoiser(model.to(pick_device(options.device)).eval())
        diffusion = denoiser.diffusion
        x_0 = _clean(denoiser, options, generator)
        noised = _predicted(denoiser, x_0, options, generator)
        subject = f"{options.model} ({diffusion.process.id}, K = {diffusion.vocab_size})"
    shown = tqdm(
        noised, total=len(options.times), desc="times", leave=False, disable=not is_terminal()
    )
    rows = list(diagnose(diffusion, shown, options.steps, generator))
    if options.best_times:
        rows += time_rows(denoiser, x_0, options.best_times, generator)
    if options.start_steps:
        rows += start_rows(unwrapped(denoiser.networks()[0]), options)
    print(f"{subject}, {diffusion.schedule.id}; '-': more than float64 can tell")
    print_sections(rows)
    write_json(options.json, {"rows": rows})
    if options.plot is not None:
        save_diagnosis(Path(options.plot), rows, subject)
    if options.output is not None:
        (told,) = (row["times"] for row in rows if row["section"] == "times")
        times = [float(time) for time in told.split()]
        keep_times(options.model, times, options.output, options.overwrite)
        print(f"\nThe model with these times is in {options.output}.")
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


def _diffusion(options: DiagnoseOptions) -> Diffusion:
    schedule = options.schedule or "log_linear"
    return build_diffusion(options.process, schedule, options.vocab_size, options.mask_token_id)


def _bare(
    diffusion: Diffusion, options: DiagnoseOptions, generator: torch.Generator
) -> Iterator[Noised]:
    positions = _positions(options, diffusion)
    return (noised_at_random(diffusion, t, positions, generator) for t in sorted(options.times))


def _predicted(
    denoiser: Denoiser, x_0: Tensor, options: DiagnoseOptions, generator: torch.Generator
) -> Iterator[Noised]:
    positions = _positions(options, denoiser.diffusion)
    return (noised_by_model(denoiser, x_0, t, positions, generator) for t in sorted(options.times))


def _positions(options: DiagnoseOptions, diffusion: Diffusion) -> int:
    return max(1, min(options.positions, MAX_NUMBERS // diffusion.vocab_size))


def _clean(denoiser: Denoiser, options: DiagnoseOptions, generator: torch.Generator) -> Tensor:
    """x_0 (B, L): the data's first rows, or the model's own samples."""
    config = unwrapped(denoiser.networks()[0]).config
    shape = getattr(config, "token_shape", None)
    most = getattr(config, "max_position_embeddings", LENGTH)
    length = options.length or (math.prod(shape) if shape else min(LENGTH, most))
    device = denoiser.networks()[0].device
    if options.data is None:
        canvas = blank_canvas(config, (options.sequences, length), device)
        return Ancestral().sample(denoiser, canvas, SAMPLE_STEPS, generator)
    rows = list(itertools.islice(load_data(options), options.sequences))
    if rows and "input_ids" in rows[0]:
        sizes = {len(row["input_ids"]) for row in rows}
        if len(sizes) != 1:
            raise ValueError(f"The rows of --data differ in length: {sorted(sizes)}.")
        tokens = torch.tensor([row["input_ids"] for row in rows])
    elif rows and "text" in rows[0]:
        tokens = _tokenized(rows, options.model, length)
    else:
        raise ValueError(f"--data {options.data} has no rows with 'input_ids' or 'text'.")
    denoiser.diffusion.check_tokens(tokens)
    return tokens.to(device)


def _tokenized(rows: Sequence[Mapping[str, Any]], model: str, length: int) -> Tensor:
    """The texts behind one another, in rows of `length` tokens, as a model is trained on them."""
    texts, packing = Texts(load_tokenizer(model), length), Packing(length)
    documents = [texts.document(row) for row in rows]
    packed = [ids for document in documents for ids in packing.add(document)]
    if not packed:
        count = sum(map(len, documents))
        raise ValueError(f"--data has {count} tokens, fewer than one row of {length}.")
    return torch.from_numpy(np.stack(packed)).long()
