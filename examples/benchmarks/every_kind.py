"""Every kind of checkpoint by the commands alone: convert, distill, sample, evaluate, export, back.

    python examples/benchmarks/every_kind.py --folder kinds --json every_kind.json

Each kind is a small model of random weights that its converter writes (`Converter.example`), with a
tokenizer of letters beside it, so that the seconds are what the commands cost beside the network:
reading, refusing, training 20 steps of 8 rows, writing. They run in one process, whose start (some
seconds of imports) each command costs once more in a shell. What is exported with its code is
loaded in a process of its own that cannot import the package. Kinds that the file has are not made
again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters

import torch
from benchmark_files import rows_file
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    BertConfig,
    EsmConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from hf_ddistill import Absorbing, Uniform
from hf_ddistill.cli.main import main as command
from hf_ddistill.convert import MDLM, SEDD, Converter
from hf_ddistill.convert.written_ddit import example_ddit
from hf_ddistill.parameterizations import Score, Subs

#: What is trained for: of whole rows, of what a diffusion teacher decodes, of a causal teacher.
ROWS, BLOCKS, CAUSAL = "law_matching", "dparallel", "opdlm"
ENDS = ("<pad>", "<cls>", "<sep>", "<unk>", "<mask>")
ELSEWHERE = """
import sys, torch
sys.modules |= {"hf_ddistill": None, "jaxtyping": None}
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
if hasattr(model, "sample"):
    model.sample(2, 2, length=8, generator=torch.Generator().manual_seed(0))
elif model.can_generate():
    model.generate(torch.zeros(2, 4, dtype=torch.int64), max_new_tokens=4)
"""


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Args:
        write: makes a folder of it.
        tokens: in its vocabulary.
        mask: the token that is the mask; None where there is none.
        objective: that fits it.
        flags: of `convert`; None where nothing is converted.
        within: whether its causal teacher is the network within it, exported as one; else the
            source is a causal model.
    """

    write: Callable[[Path], None]
    tokens: int
    mask: int | None
    objective: str = ROWS
    flags: tuple[str, ...] | None = ()
    within: bool = False


def of_converter(name: str, tokens: int, mask: int | None, *more: str) -> Kind:
    """The example that a converter writes of its source."""
    objective = more[0] if more else ROWS
    return Kind(Converter.named(name).example, tokens, mask, objective, more[1:])


def masked_lm(config: type, **more: object) -> Kind:
    """A masked language model of transformers."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 24, "pad_token_id": 0}
    names = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}

    def write(folder: Path) -> None:
        torch.manual_seed(0)
        made = config(vocab_size=12, **sizes, **names, **more)
        AutoModelForMaskedLM.from_config(made).save_pretrained(folder)

    return Kind(write, 12, 4, ROWS, None)


def saying(name: str, **fields: object) -> Callable[[Path], None]:
    """The example that a converter writes, with these fields in its configuration."""

    def write(folder: Path) -> None:
        Converter.named(name).example(folder)
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return write


def ddit(converter: Converter, *about: object) -> Callable[[Path], None]:
    """A DiT of another process, reading or time than the converter's own example has."""
    return lambda folder: example_ddit(converter, folder, *about)


KINDS = {
    "SEDD, absorbing": of_converter("sedd", 7, 6),
    # Ratios of random weights belong to no law, whose logarithm law matching would take.
    "SEDD, uniform": Kind(ddit(SEDD(), Uniform(7), Score(), "sigma"), 7, None, "ecd"),
    "MDLM": of_converter("mdlm", 7, 6),
    "MDLM, mask inside, with time": Kind(
        ddit(MDLM(), Absorbing(7, 2), Subs(), "sigma"), 7, 2, ROWS, ("--mask-token-id", "2")
    ),
    "ReMDM": Kind(
        saying("mdlm", sampling={"sampler": "remdm-cap", "eta": 0.04, "steps": 8}), 7, 6, "ecd"
    ),
    "Duo": of_converter("duo", 7, None),
    "SDTT": of_converter("sdtt", 7, 6),
    "BD3LM": of_converter("bd3lm", 7, 6, "bd3lm"),
    "LLaDA": of_converter("llada", 12, 11),
    "iLLaDA": of_converter("illada", 12, 11),
    "Dream": of_converter("dream", 12, 11),
    "SDAR": of_converter("sdar", 12, 11, BLOCKS),
    "OPDLM": Kind(saying("sdar", block_size=4), 12, 11, CAUSAL, within=True),
    "Nemotron-Labs-Diffusion": of_converter("nemotron", 12, 11, BLOCKS),
    "LLaDA2": of_converter("llada2", 12, 11, BLOCKS),
    "A2D, masked": of_converter("a2d", 12, 11),
    "A2D, blocks": of_converter("a2d", 12, 11, BLOCKS, "--block-size", "4"),
    "DiffusionGemma": of_converter("diffusion_gemma", 20, None),
    "GIDD": of_converter("gidd", 12, 3),
    "GIDD, masks": Kind(saying("gidd", noise_type=-1000.0), 12, 3),
    "causal LM": of_converter("causal_lm", 11, None, CAUSAL),
    "RoBERTa": masked_lm(RobertaConfig),
    "BERT": masked_lm(BertConfig),
    "ALBERT": masked_lm(AlbertConfig, embedding_size=8),
    "ModernBERT": masked_lm(ModernBertConfig),
    "ESM": masked_lm(
        EsmConfig, mask_token_id=4, position_embedding_type="rotary", token_dropout=True
    ),
}


def tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Letters, and what else the kind has in its vocabulary."""
    special = {}
    if kind.flags is None:
        names = [*ENDS, *ascii_letters][: kind.tokens]
        roles = ("pad", "cls", "sep", "unk", "mask")
        special = {f"{role}_token": name for role, name in zip(roles, ENDS, strict=True)}
    else:
        names = [*ascii_letters][: kind.tokens]
        if kind.mask is not None:
            names[kind.mask] = special["mask_token"] = "<mask>"
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, names[3]))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    if kind.flags is None:
        ends = [(name, names.index(name)) for name in ENDS[1:3]]
        inner.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>", special_tokens=ends
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def ran(*words: object) -> tuple[float, str, str]:
    """Seconds of a command, what it printed last, and what it refused (or "")."""
    out, err = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command([str(word) for word in words])
    taken = round(time.perf_counter() - start, 2)
    refused = re.sub(r"^hf-ddistill: ", "", err.getvalue().strip().split("\n")[-1]) if code else ""
    return taken, (out.getvalue().strip().split("\n") or [""])[-1], refused


def row_of(name: str, here: Path) -> dict[str, object]:
    """All commands on one kind."""
    kind, row = KINDS[name], {"kind": name, "objective": KINDS[name].objective}
    source = ours = here / "source"
    kind.write(source)
    letters = tokenizer(kind)
    letters.save_pretrained(source)
    plain = [t for t in letters.get_vocab() if t not in letters.all_special_tokens]
    draw = random.Random(0)
    lines = ["".join(draw.choices(plain, k=12)) for _ in range(64)]
    (here / "rows.txt").write_text("\n".join(lines))
    if kind.flags is not None:
        ours = here / "ours"
        row["convert"], row["recognised"], refused = ran("convert", source, ours, *kind.flags)
        assert not refused, refused
    data = ["--data", here / "rows.txt", "--max-length", 8]
    teacher = source if kind.objective == CAUSAL else ours
    if kind.within:
        teacher = here / "causal"
        _, _, refused = ran("export", ours, teacher, "--to", "causal_lm")
        assert not refused, refused
    train = ["distill", *data, "--teacher", teacher]
    train += ["--student", ours] if kind.objective == CAUSAL else []
    train += ["--batch-size", 8, "--steps", 20]
    of_rows = kind.objective in (ROWS, "ecd")
    if kind.objective != ROWS:
        row["default objective"] = ran(*train, "--output", here / "by_default")[2]
        train += ["--objective", kind.objective]
    if kind.objective in (BLOCKS, CAUSAL):
        train += ["--prompt-length", 4, "--objective.rollouts", '{"tokens": 8}']
    student, prompt = here / "student", lines[0][:4]
    row["distill"], _, refused = ran(*train, "--output", student)
    assert not refused, refused
    drawn = ["sample", student, "--count", 2, "--prompt", prompt]
    new = ["--max-new-tokens", 4] if not of_rows else ["--steps", 4, "--length", 8]
    row["sample"], row["drawn"], refused = ran(*drawn, *new)
    assert not refused, refused
    row["evaluate"], row["bound"], refused = ran("evaluate", student, "--bound", *data)
    assert not refused, refused
    row["forms"], row["refused forms"] = {}, {}
    if kind.flags is None:
        row["forms"]["its own class"] = {"export": 0.0, "back": elsewhere(student)}
    for form in Converter.registry:
        target = here / f"as_{form}"
        taken, _, refused = ran("export", student, target, "--to", form)
        if refused:
            row["refused forms"][form] = refused
        else:
            row["forms"][form] = {"export": taken, "back": back(student, target, form, kind)}
    return row


def back(student: Path, target: Path, form: str, kind: Kind) -> str:
    """Whether what was exported is the student again."""
    if form == "transformers":
        return elsewhere(target)
    again = target.with_name(f"from_{form}")
    mask = [] if form != "causal_lm" else ["--mask-token-id", kind.mask or kind.tokens]
    _, _, refused = ran("convert", target, again, *mask)
    if refused:
        return refused
    one, two = (load_file(folder / "model.safetensors") for folder in (student, again))
    alike = one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    return "bit for bit" if alike else "other tensors"


def elsewhere(folder: Path) -> str:
    """Whether a process that cannot import the package loads it."""
    words = [sys.executable, "-c", ELSEWHERE, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder.parent)
    return "loaded without the package" if not done.returncode else done.stderr[-300:]


def started() -> float:
    """Seconds of the start of a command that trains, in a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import hf_ddistill.cli.distill"], check=True)
    return round(time.perf_counter() - start, 2)


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="new, for all that is written")
    parser.add_argument("--json", type=rows_file, required=True)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    args = parser.parse_args()
    file = json.loads(args.json.read_text()) if args.json.is_file() else {"start": started()}
    found = file.setdefault("rows", [])
    for name in args.kinds:
        if all(row["kind"] != name for row in found):
            here = args.folder / re.sub(r"\W+", "_", name)
            here.mkdir(parents=True)
            found.append(row_of(name, here))
            print(json.dumps(found[-1], indent=1), flush=True)
            args.json.write_text(json.dumps(file, indent=1) + "\n")


if __name__ == "__main__":
    main()
