"""What a student learns from a teacher that is shown more, exactly: patches of digits.

    python examples/benchmarks/hints.py --json examples/results/hints.json

The law is that of 2 x 3 patches of scikit-learn's digits 0 to 4 (`pixel > 7`); the teacher knows
all its conditionals. At a state with half of its pixels masked it is shown each other masked pixel
with probability `sees`. The student is where the expected divergence is least: the mean of the
targets (forward KL) or their normalised geometric mean (reverse KL). It is judged on that law and
on that of the digits 5 to 9, which nobody was trained on. A few seconds.
"""

import argparse
import json

import torch
from benchmark_files import rows_file
from sklearn.datasets import load_digits

PIXELS = 6
STATES = torch.cartesian_prod(*[torch.arange(3)] * PIXELS)
OPEN = STATES == 2


def law_of(digits):
    """The law of the patches of some digits, (64,)."""
    data = load_digits()
    images = torch.tensor(data.images[torch.isin(torch.tensor(data.target), digits)] > 7).long()
    patches = images.unfold(1, 2, 1).unfold(2, 3, 1).reshape(-1, PIXELS)
    number = (patches * 2 ** torch.arange(PIXELS - 1, -1, -1)).sum(-1)
    law = torch.bincount(number, minlength=64).double()
    law = law / law.sum() + 1e-5
    return law / law.sum()


def conditionals(law):
    """The probability of what each state shows (729,), and p(pixel = 1 | state) (729, 6)."""
    clean = torch.cartesian_prod(*[torch.arange(2)] * PIXELS)
    fits = ((STATES[:, None] == clean) | OPEN[:, None]).all(-1).double() * law
    shown = fits.sum(1)
    return shown, fits @ clean.double() / shown[:, None]


def learnt(law, sees, divergence, limit):
    """p(pixel = 1 | state) of the student, (729, 6)."""
    shown, p = conditionals(law)
    p = p.clamp(1e-9, 1 - 1e-9)  # what is shown is certain, and no target
    # y shows what x shows, and R more: P(R of the others) P(x_R | x), for each open pixel of y.
    extends = ((STATES[:, None] == STATES) | OPEN[:, None]).all(-1)
    more = OPEN.sum(1)[:, None] - OPEN.sum(1)
    chance = sees**more * (1 - sees) ** (OPEN.sum(1) - 1).clamp_min(0) / (1 - sees) ** more
    chance = torch.where(extends, chance * shown / shown[:, None], 0.0)
    out = torch.zeros_like(p)
    for i in range(PIXELS):
        target = p[:, i].expand(len(p), -1)
        if limit is not None:
            plain = p[:, i, None].expand(-1, len(p))
            gained = target * (target / plain).log()
            gained = gained + (1 - target) * ((1 - target) / (1 - plain)).log()
            share = (limit / gained.clamp_min(1e-12)).clamp_max(1)
            target = share * target + (1 - share) * plain
        weight = chance * OPEN[:, i]
        total = weight.sum(1).clamp_min(1e-300)
        if divergence == "forward_kl":
            out[:, i] = (weight * target).sum(1) / total
        else:
            logit = (weight * target.logit(1e-12)).sum(1) / total
            out[:, i] = logit.sigmoid()
    return out


def judged(law, student):
    """Per masked pixel of a law, half of all pixels masked."""
    shown, p = conditionals(law)
    q = student.clamp(1e-12, 1 - 1e-12)
    weight = (shown / 2**PIXELS)[:, None] * OPEN
    weight = weight / weight.sum()
    right = torch.where(q > 0.5, p, 1 - p)
    entropy = -(q * q.log() + (1 - q) * (-q).log1p())
    values = {
        "nats": -(p * q.log() + (1 - p) * (-q).log1p()),
        "entropy": entropy,
        "surer": torch.maximum(q, 1 - q) - right,
        "decided_at_0.9": (torch.maximum(q, 1 - q) > 0.9).double(),
    }
    return {name: float((weight * value).sum()) for name, value in values.items()}


def main():
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sees", type=float, nargs="+", default=[0.0, 0.3, 0.6, 0.9])
    parser.add_argument("--limits", type=float, nargs="+", default=[0.1, 0.02])
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    own, other = law_of(torch.arange(5)), law_of(torch.arange(5, 10))
    rows = []
    for divergence in ("forward_kl", "reverse_kl"):
        for sees in args.sees:
            for limit in (None, *args.limits) if sees else (None,):
                student = learnt(own, sees, divergence, limit)
                row = {"divergence": divergence, "teacher_sees": sees, "teacher_limit": limit}
                row |= {f"own_{k}": v for k, v in judged(own, student).items()}
                row |= {f"other_{k}": v for k, v in judged(other, student).items()}
                rows.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
