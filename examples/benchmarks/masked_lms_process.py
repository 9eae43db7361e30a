"""Which noise explains a masked language model best: its bound on held-out sequences.

    python examples/benchmarks/masked_lms_process.py OUT/model OUT/held_out.jsonl --json rows.json

OUT is of `masked_lms_folder.py`. Noise is masks with a share of random letters (0: masks alone; .99
stands for random letters alone). What the network says of a letter that stands there is read as
p(x_0 | x_t) ("conditional"), as that of all others ("others"), or as that of all others with what
it has seen of its own in BERT's training ("seen", what `--random-tokens` does). The noise of a row
is the same under all readings of one share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmark_files import rows_file
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_ddistill.evaluation import likelihood_bound
from hf_ddistill.models import as_denoiser
from hf_ddistill.models.held import Held, enter_held
from hf_ddistill.models.random_tokens import enter_random_tokens
from hf_ddistill.training.clean_tokens import CleanCollator
from hf_ddistill.training.data import TokenCollator

CASES = [(0.0, "masks"), (0.1, "seen"), (0.99, "seen"), (0.99, "others"), (0.99, "conditional")]
CASES += [(0.1, "others"), (0.1, "conditional"), (0.02, "seen"), (0.3, "seen")]


def row(args: argparse.Namespace, share: float, reading: str) -> dict:
    """The bound under one noise and one reading."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForMaskedLM.from_pretrained(args.model).eval()
    model.config.mask_token_id = tokenizer.mask_token_id
    enter_held(model.config, tokenizer)
    if share:
        enter_random_tokens(model, share, seen=0.0 if reading == "others" else None)
    if reading == "conditional":
        model.config.discrete_diffusion["parameterization"] = "conditional"
    denoiser = as_denoiser(model, tokenizer=tokenizer)
    collator = TokenCollator.suited_to(model.config, tokenizer, 1)
    clean = CleanCollator(collator, denoiser.diffusion, Held.of(model.config))
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()[: args.first]]

    def batches() -> Iterator[dict[str, Tensor]]:
        yield from (clean(rows[i : i + 25]) for i in range(0, len(rows), 25))

    torch.set_grad_enabled(False)
    bound = likelihood_bound(denoiser, batches(), draws=args.draws)
    told = {"random_tokens": share, "reading": reading, "nelbo": bound.nats}
    told |= {"standard_error": bound.standard_error, "tokens": bound.tokens}
    return told | {"rows": bound.rows, "draws": args.draws}


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--json", type=rows_file, required=True)
    parser.add_argument("--first", type=int, default=300, help="rows")
    parser.add_argument("--draws", type=int, default=4, help="states of each row")
    args = parser.parse_args()
    found = json.loads(args.json.read_text()) if args.json.is_file() else []
    for share, reading in CASES:
        if not any((share, reading) == (each["random_tokens"], each["reading"]) for each in found):
            found.append(row(args, share, reading))
            print(found[-1], flush=True)
            args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
