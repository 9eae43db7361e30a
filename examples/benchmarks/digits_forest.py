"""What a forest sees of few-step digits, and how well one draw of 1,000 knows an AUC.

    python examples/benchmarks/digits_forest.py --json examples/results/digits_forest.json

Of the student in the package (or `--student NAME FOLDER`) and of the teacher, 4,000 samples each,
by four draws of 1,000:

* `auc`: against training digits, the figure of `scoreboard_digits.py`, of each draw with other
  training digits, folds and forests, and its standard error between draws; `auc_network`: the same
  of that script's networks;
* `auc_300`, `auc_unseen`: 300 samples against 300 training digits, and against the 300 that neither
  teacher nor student has seen;
* `auc_teacher`: against the teacher's 64 calls, of which there are as many as one likes, 4,000 of
  each: what the student has not learned, whatever its teacher has;
* `ink_sd`: of the number of pixels that are set, within classes (real digits: `train`); `variance`,
  the sum of the pixels' own, and those of the covariances of pixels that touch, `near`, and of
  others, `far`; `repeats`, the share of samples that were there before;
* `auc_ink`: as `auc`, of 1,000 of the samples that are chosen so that ink is spread within classes
  as in training digits, the mean of three choices: what the forest sees beside ink.

Samples are kept in `--draws`, rows in `--json`; what is there is not made again.
"""

import argparse
import json
from pathlib import Path

import torch
from benchmark_files import rows_file
from scoreboard_shared import RowsFile, short, table
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from two_sample_network import network_auc

from hf_ddistill.cli.evaluate import draw
from hf_ddistill.cli.quickstart import shipped_student, shipped_teacher
from hf_ddistill.evaluation import load_digit_tokens, split_digits
from hf_ddistill.evaluation.two_sample import two_sample_auc
from hf_ddistill.pipelines import DiscreteDiffusionPipeline

KEYS = ("model", "nfe", "seed")
SAMPLES, DRAW, FEW = 4000, 1000, 300
JUDGES = ("auc", "auc_error", "auc_network", "auc_network_error")
HEADS = (*JUDGES, "auc_ink", "auc_300", "auc_unseen", "auc_teacher")
MORE = ("ink", "ink_sd", "variance", "near", "far", "repeats")


def samples_of(name: str, network: nn.Module, nfe: int, args: argparse.Namespace) -> Tensor:
    """(SAMPLES, 64), row i of class i mod 10; drawn once."""
    kept = torch.load(args.draws) if args.draws.exists() else {}
    key = f"{name} {nfe} {args.seed}"
    if key not in kept:
        pipe = DiscreteDiffusionPipeline.from_model(network.eval())
        pipe.set_progress_bar_config(disable=True)
        kept[key] = draw(pipe, nfe, SAMPLES, seed=args.seed, batch_size=250)
        torch.save(kept, args.draws)
    return kept[key]


def order(count: int, seed: int) -> Tensor:
    """A random order of so many."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean, and the standard error of it."""
    each = torch.tensor(values)
    return float(each.mean()), float(each.std() / len(each) ** 0.5)


def spread(tokens: Tensor, labels: Tensor) -> dict[str, float]:
    """How much of a digit there is, and how that differs within a class."""
    of = [tokens[labels == c].double() for c in range(10)]
    ink = torch.stack([each.sum(1).var() for each in of]).mean().sqrt()
    covariance = torch.stack([each.T.cov() for each in of]).mean(0)
    places = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    apart = (places[:, None] - places).abs().amax(-1)
    sums = {"variance": apart == 0, "near": apart == 1, "far": apart > 1}
    made = {"ink": float(tokens.sum(1).double().mean()), "ink_sd": float(ink)}
    made |= {name: float(covariance[where].sum()) for name, where in sums.items()}
    return {**made, "repeats": 1 - len(tokens.unique(dim=0)) / len(tokens)}


def even_ink(tokens: Tensor, split, seed: int) -> Tensor:  # noqa: ANN001
    """DRAW of the samples, with odds of two normal laws of the ink of a class: those of training
    digits and of the samples."""
    odds = torch.zeros(len(tokens), dtype=torch.float64)
    for c in range(10):
        here = torch.arange(len(tokens)) % 10 == c
        ink, real = tokens[here].sum(1).double(), split.train_tokens[split.train_labels == c]
        laws = [torch.distributions.Normal(x.mean(), x.std()) for x in (real.sum(1).double(), ink)]
        odds[here] = (laws[0].log_prob(ink) - laws[1].log_prob(ink)).exp().clamp_max(8.0)
    generator = torch.Generator().manual_seed(seed)
    return tokens[torch.multinomial(odds, DRAW, generator=generator)]


def even_ink_auc(tokens: Tensor, split) -> float:  # noqa: ANN001
    """`auc_ink` of the module's docstring."""
    real = split.train_tokens[order(1497, 303)]
    chosen = [even_ink(tokens, split, 81 + number) for number in range(3)]
    aucs = [
        two_sample_auc(each, real[order(1497, number)], 31 + number)
        for number, each in enumerate(chosen)
    ]
    return sum(aucs) / len(aucs)


def figures(tokens: Tensor, split, teacher: Tensor | None) -> dict[str, float]:  # noqa: ANN001
    """All of one model at one number of calls."""
    real, unseen, base = split.train_tokens, split.held_out_tokens, order(1497, 303)
    made, of_300, of_unseen = {}, [], []
    for name, judge in (("auc", two_sample_auc), ("auc_network", network_auc)):
        made[f"{name}_of_draws"] = [
            judge(drawn, real[base][order(1497, number)], 31 + number)
            for number, drawn in enumerate(tokens.split(DRAW))
        ]
        made[name], made[f"{name}_error"] = mean_and_error(made[f"{name}_of_draws"])
    for number in range(8):
        drawn = tokens[number * FEW : (number + 1) * FEW]
        of_300.append(two_sample_auc(drawn, real[base][order(1497, number)][:FEW], 51 + number))
        of_unseen.append(two_sample_auc(drawn, unseen, 51 + number))
    made["auc_300"], made["auc_unseen"] = mean_and_error(of_300)[0], mean_and_error(of_unseen)[0]
    made["auc_ink"] = even_ink_auc(tokens, split)
    if teacher is not None:
        made["auc_teacher"] = two_sample_auc(tokens, teacher, 71)
    return {**made, **spread(tokens, torch.arange(len(tokens)) % 10)}


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", nargs=2, metavar=("NAME", "FOLDER"), help="another one")
    parser.add_argument("--nfe", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--teacher-nfe", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--seed", type=int, default=101, help="of the draws")
    parser.add_argument("--draws", type=Path, default=Path("digits_forest.pt"))
    parser.add_argument("--json", type=rows_file, default="digits_forest.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept, split = RowsFile(args.json, KEYS), split_digits(*load_digit_tokens(2))
    if not kept.has(model="train"):
        row = {"model": "train", "nfe": 0, "seed": None}
        kept.add(row | spread(split.train_tokens, split.train_labels))
    teacher = samples_of("teacher", shipped_teacher(), 64, args)
    name, student = "bridge, 5,000 steps", shipped_student()
    if args.student:
        name, student = args.student[0], AutoModelForMaskedLM.from_pretrained(args.student[1])
    for model, network, nfes in (
        ("teacher", shipped_teacher(), args.teacher_nfe),
        (name, student, args.nfe),
    ):
        for nfe in nfes:
            named = {"model": model, "nfe": nfe, "seed": args.seed}
            if kept.has(**named):
                continue
            tokens = samples_of(model, network, nfe, args)
            other = None if named["model"] == "teacher" and nfe == 64 else teacher
            kept.add(named | figures(tokens, split, other))
            print(json.dumps(kept.rows[-1]), flush=True)
    heads = (*KEYS, *HEADS, *MORE)
    lines = [[_cell(row.get(head)) for head in heads] for row in kept.rows]
    print(f"\n{table(list(heads), lines)}")


def _cell(value: object) -> str:
    return short(value) if isinstance(value, float) else f"{'' if value is None else value}"


if __name__ == "__main__":
    main()
