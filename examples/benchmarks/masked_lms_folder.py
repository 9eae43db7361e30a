"""What a package ships of a masked language model (weights and vocab.txt), as a folder for ours.

    python examples/benchmarks/masked_lms_folder.py SOURCE sequences.txt OUT [--smiles]

OUT/model opens with AutoModelForMaskedLM and AutoTokenizer: the vocabulary read letter by letter
(with --smiles: atom by atom), each sequence between the model's own two special tokens. OUT has the
sequences (one a line) as rows of `input_ids`, too: train.jsonl, and of the end of the file
validation.jsonl (100) and held_out.jsonl (300).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

HELD_OUT, VALIDATION = 300, 100
#: Schwaller et al., Molecular Transformer, 2019, arXiv:1811.02633.
SMILES = (
    r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|"
    r"\%[0-9]{2}|[0-9]"
)
NAMES = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def tokenizer_of(names: list[str], pattern: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a vocabulary whose tokens match a pattern."""
    ids = {name: i for i, name in enumerate(names)}
    special = {role: next(n for n in those if n in ids) for role, those in NAMES.items()}
    begin, end = special["cls_token"], special["sep_token"]
    inner = Tokenizer(models.WordLevel(ids, unk_token=special["unk_token"]))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, ids[begin]), (end, ids[end])]
    )
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=inputs, **special)


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--smiles", action="store_true")
    parser.add_argument("--rows", type=int, default=20_000, help="of the sequences, at most")
    args = parser.parse_args()
    names = (args.source / "vocab.txt").read_text().split()
    tokenizer = tokenizer_of(names, SMILES if args.smiles else ".")
    tokenizer.save_pretrained(args.out / "model")
    AutoModelForMaskedLM.from_pretrained(args.source).save_pretrained(args.out / "model")
    texts = args.sequences.read_text().split()[: args.rows]
    first, last = len(texts) - HELD_OUT - VALIDATION, len(texts) - HELD_OUT
    parts = {"train": texts[:first], "validation": texts[first:last], "held_out": texts[last:]}
    for name, part in parts.items():
        rows = [json.dumps({"input_ids": tokenizer(text)["input_ids"]}) for text in part]
        (args.out / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
