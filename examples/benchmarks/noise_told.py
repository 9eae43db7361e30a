"""What a new noise input tells of a token in one call from masks, on the digits' teacher.

    python examples/benchmarks/noise_told.py

The mutual information of the noise and a token, H(mean of p over the noise) - mean of H(p), in
nats, the mean over positions and classes, beside the entropy that there is to tell of. The noise
input is untrained: what it adds at first has the standard deviation of the line. On text:
`scoreboard_text_plan.py --untrained`.
"""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from scoreboard_text_plan import entropy, told
from sklearn.datasets import load_digits
from torch import Tensor

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer, as_denoiser
from hf_ddistill.cli.quickstart import shipped_teacher

WIDTH, DRAWS, CLASSES, STRENGTHS = 8, 64, 10, (0.1, 0.3, 0.6, 1.2)


@torch.no_grad()
def laws(strength: float, folder: str) -> Tensor:
    """Of every token, (classes, draws, L, K), by a student that has just got its noise input."""
    pixels, labels = load_digits(return_X_y=True)
    data = Dataset.from_dict({"input_ids": (pixels > 7).astype(int), "class_labels": labels})
    args = DiscreteDistillationConfig(folder, noise_dim=WIDTH, noise_std=strength, report_to=[])
    trainer = DiscreteDistillationTrainer(teacher=shipped_teacher(), args=args, train_dataset=data)
    denoiser, made = as_denoiser(trainer.model.eval()), []
    for number in range(CLASSES):
        generator = torch.Generator().manual_seed(number)
        masks = denoiser.diffusion.prior((DRAWS, pixels.shape[1]))
        noise = torch.randn(*masks.shape, WIDTH, generator=generator)
        given = {"class_labels": torch.full((DRAWS,), number), "noise": noise}
        made.append(denoiser(masks, 1.0, **given).log_conditional.exp().double())
    return torch.stack(made)


def main() -> None:
    """Print a line for each strength."""
    for strength in STRENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            law = laws(strength, folder)
        known = sum(told(each) for each in law) / CLASSES
        print(f"noise_std {strength}: {known:.4f} of {entropy(law.mean(1)).mean():.4f} nats told")


if __name__ == "__main__":
    main()
