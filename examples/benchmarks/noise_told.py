"""What a new noise input tells of a token in one call from masks, on digits and on molecules.

    python examples/benchmarks/noise_told.py

The mutual information of the noise and a token, H(mean of p over the noise) - mean of H(p), in
nats, the mean over positions (and classes), beside the entropy that there is to tell of. The noise
input is untrained: what it adds at first has the standard deviation of the line. On text:
`scoreboard_text_plan.py --untrained`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from scoreboard_text_plan import entropy, told
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer, as_denoiser
from hf_ddistill.cli.quickstart import shipped_teacher

WIDTH, STRENGTHS = 8, (0.1, 0.3, 0.6, 1.2)
MOLECULES = Path(__file__).parents[1] / "assets" / "molecules_teacher"


@torch.no_grad()
def laws(teacher: PreTrainedModel, length: int, strength: float, given: list[dict]) -> Tensor:
    """Of every token, (conditions, draws, L, K), by a student that has just got its noise input."""
    rows = Dataset.from_dict({"input_ids": [[1] * length] * 2})
    with tempfile.TemporaryDirectory() as folder:
        args = DiscreteDistillationConfig(folder, noise_dim=WIDTH, noise_std=strength, report_to=[])
        trainer = DiscreteDistillationTrainer(teacher=teacher, args=args, train_dataset=rows)
    denoiser, made = as_denoiser(trainer.model.eval()), []
    for number, condition in enumerate(given):
        draws = 64 if condition else 256
        generator = torch.Generator().manual_seed(number)
        masks = denoiser.diffusion.prior((draws, length))
        noise = torch.randn(*masks.shape, WIDTH, generator=generator)
        named = {name: torch.full((draws,), value) for name, value in condition.items()}
        law = denoiser(masks, 1.0, noise=noise, **named).log_conditional.exp()
        made.append(law.double())
    return torch.stack(made)


def main() -> None:
    """Print a line for each teacher and strength."""
    digits = shipped_teacher(), 64, [{"class_labels": number} for number in range(10)]
    molecules = AutoModelForMaskedLM.from_pretrained(MOLECULES, dtype=torch.float32), 8, [{}]
    for name, (teacher, length, given) in {"digits": digits, "molecules": molecules}.items():
        for strength in STRENGTHS:
            law = laws(teacher, length, strength, given)
            known = sum(told(each) for each in law) / len(law)
            there = entropy(law.mean(1)).mean()
            print(f"{name}, noise_std {strength}: {known:.4f} of {there:.4f} nats told")


if __name__ == "__main__":
    main()
