"""How well a small convolutional network tells images of 8 x 8 from real ones."""

import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from hf_ddistill.evaluation.two_sample import FOLDS

EPOCHS, ROWS, RATE = 20, 128, 4e-3


def network_auc(samples: Tensor, real: Tensor, seed: int = 0) -> float:
    """What `two_sample_auc` says, of small convolutional networks in the place of forests."""
    count = min(len(samples), len(real))
    pixels = torch.cat([samples[:count], real[:count]]).float() * 2 / real.max() - 1
    is_real, scores = torch.arange(2 * count).ge(count), torch.zeros(2 * count)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(pixels, is_real)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fold in folds:
            seen, asked = map(torch.tensor, fold)
            network = _fitted(pixels[seen], is_real[seen].float())
            with torch.no_grad():
                scores[asked] = network(pixels[asked])[:, 0]
    return float(roc_auc_score(is_real, scores))


def _fitted(pixels: Tensor, is_real: Tensor) -> nn.Module:
    network = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(512, 64),
        nn.GELU(),
        nn.Linear(64, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    steps = EPOCHS * (len(pixels) // ROWS)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(pixels))
        for rows in order[: len(order) // ROWS * ROWS].split(ROWS):
            loss = binary_cross_entropy_with_logits(network(pixels[rows])[:, 0], is_real[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    return network.eval()
