"""A judge of generated digits: a small classifier, trained in seconds on scikit-learn's images.

N samples, 64 = 8 x 8 pixels, `levels` values per pixel (2 to 17), C = 10 classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from hf_ddistill.evaluation.diversity import class_entropy, nearest_distance, unique_fraction
from hf_ddistill.evaluation.frechet import frechet_distance

FILE_NAME = "digits_judge.safetensors"
STEPS, BATCH_SIZE, LEARNING_RATE = 600, 128, 1e-3
#: One image in so many is held out.
HELD_OUT = 6


class DigitSplit(NamedTuple):
    """Training and held-out digits: tokens (n, 64) and labels (n,), int64."""

    train_tokens: Tensor
    train_labels: Tensor
    held_out_tokens: Tensor
    held_out_labels: Tensor


def load_digit_tokens(levels: int) -> tuple[Tensor, Tensor]:
    """The 1,797 8 x 8 digits that come with scikit-learn, row by row as tokens.

    Args:
        levels: 2 (is the pixel above 7?), or 3 to 17 equal bands of the raw 0..16.

    Returns:
        tokens (1797, 64) and labels (1797,), int64.

    Raises:
        ValueError: on another number of levels.
    """
    if not 2 <= levels <= 17:
        raise ValueError(
            f"Got levels={levels}; accepted are 2 (pixel > 7) and 3 to 17 bands of the raw 0..16."
        )
    pixels, labels = load_digits(return_X_y=True)
    raw = torch.from_numpy(pixels).to(torch.int64)
    tokens = (raw > 7).to(torch.int64) if levels == 2 else raw * levels // 17
    return tokens, torch.from_numpy(labels).to(torch.int64)


def split_digits(tokens: Tensor, labels: Tensor, seed: int = 0) -> DigitSplit:
    """Hold out every sixth image of a random order by class: 1,497 to train on, 300 to test on."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[order[::HELD_OUT]] = True
    return DigitSplit(tokens[~held_out], labels[~held_out], tokens[held_out], labels[held_out])


class DigitsJudge:
    """A convolutional classifier of digits, whose last hidden layer is the feature space.

    features = tanh(W relu(conv(relu(conv(x / (levels - 1)))))), the Fréchet distance's 32 numbers

    Make one with `DigitsJudge.fit(levels)` or `DigitsJudge.load(folder)`. It runs on the CPU.

    Attributes:
        levels: values per pixel.
        accuracy: share of held-out digits that it names right; NaN until it is trained.
    """

    def __init__(self, network: nn.Sequential, levels: int, accuracy: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self.levels = levels
        self.accuracy = accuracy

    @classmethod
    def fit(cls, levels: int, seed: int = 0) -> Self:
        """Train on the training digits of `split_digits`; the global random state stays as it is.

        The weights depend on nothing but the arguments: not on the random state, nor on threads.

        Args:
            levels: 2 to 17.
            seed: of the weights and of the batches. The held-out images are always the same.

        Raises:
            ValueError: on another number of levels.
        """
        data = split_digits(*load_digit_tokens(levels))
        with torch.random.fork_rng(devices=[]), _one_thread(), torch.enable_grad():
            # Not torch.manual_seed: that would also seed accelerators, which are not forked here.
            torch.default_generator.manual_seed(seed)
            network = _network()
            pixels = _to_pixels(data.train_tokens, levels)
            _train(network, pixels, data.train_labels, torch.Generator().manual_seed(seed))
        judge = cls(network, levels, float("nan"))
        named = judge.probabilities(data.held_out_tokens).argmax(-1)
        judge.accuracy = float((named == data.held_out_labels).double().mean())
        return judge

    @torch.no_grad()
    def features(self, tokens: Tensor) -> Tensor:
        """(N, 64) tokens -> (N, 32) features, float32.

        Raises:
            ValueError: if a token is not one of the levels (a mask that was left, for one).
        """
        return self.network[:-1](_to_pixels(tokens, self.levels))

    @torch.no_grad()
    def probabilities(self, tokens: Tensor) -> Tensor:
        """(N, 64) tokens -> (N, 10) class probabilities, float64; errors as `features`."""
        return self.network(_to_pixels(tokens, self.levels)).double().softmax(-1)

    def save(self, folder: str | Path) -> None:
        """Write `digits_judge.safetensors` into a folder, which is made where there is none."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        about = {"levels": json.dumps(self.levels), "accuracy": json.dumps(self.accuracy)}
        save_file(self.network.state_dict(), Path(folder) / FILE_NAME, metadata=about)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if the folder holds no judge.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"No judge at {path}; make one with DigitsJudge.fit(levels).")
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}
        with torch.device("meta"):
            network = _network()
        network.load_state_dict(weights, assign=True)
        return cls(network, json.loads(about["levels"]), json.loads(about["accuracy"]))


def judge_samples(judge: DigitsJudge, samples: Tensor, real: Tensor) -> dict[str, float]:
    """What a set of generated digits is worth.

    Args:
        judge: of the same number of levels.
        samples: (N, 64) int64.
        real: (M, 64) int64, the images that the generator was trained on.

    Returns:
        `fd`: Fréchet distance to `real`; `confidence`: mean largest class probability;
        `class_entropy`: nats, at most log 10; `unique`: share of distinct samples;
        `novelty`: mean distance to the nearest of `real`, the number of pixels that differ for
        2 levels, the sum of their differences (L1) for 17. A copyist has `fd` 0 and `novelty` 0.

    Raises:
        ValueError: if a token is not one of the judge's levels, or there are under two samples.
    """
    novelty = nearest_distance(samples.cpu(), real.cpu(), distance="l1")
    return {
        "fd": frechet_distance(judge.features(samples), judge.features(real)),
        **_appearance(judge, samples),
        "novelty": float(novelty.mean()),
    }


def judge_real(
    judge: DigitsJudge,
    real: Tensor,
    splits: int = 8,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
    samples: int | None = None,
) -> dict[str, float]:
    """The same keys for real digits: what `judge_samples` would say of a perfect generator.

    `fd` is the mean over random splits of the distance between two halves of `real`, `novelty` the
    mean distance to the nearest *other* image.

    A Fréchet distance of two sets of one law goes with 1 / N + 1 / M, so that the halves' is
    greater than that of N = `samples` new digits to all M of `real`: with `samples` it is what
    these would have.

    Args:
        judge: of the same number of levels.
        real: (M, 64) int64.
        splits: how many times `real` is halved at random.
        generator: of the halves.
        labels: (M,), with which the halves have as many of each class; None if they need not.
        samples: N; None for the distance of the halves as it is.

    Raises:
        ValueError: if `splits` is under 1 or there are fewer than four images.
    """
    if splits < 1:
        raise ValueError(f"Got splits={splits}; the mean over random halves needs at least one.")
    features = judge.features(real)
    distances = []
    for a, b in _halves(len(features), splits, generator, labels):
        distances.append(frechet_distance(features[a], features[b]))
    fd = sum(distances) / splits
    if samples is not None:
        fd *= (1 / samples + 1 / len(real)) / (2 / (len(real) // 2))
    novelty = nearest_distance(real.cpu(), real.cpu(), distance="l1", exclude_self=True)
    return {"fd": fd, **_appearance(judge, real), "novelty": float(novelty.mean())}


def _halves(
    count: int, splits: int, generator: torch.Generator | None, labels: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(splits):
        order = torch.randperm(count, generator=generator)
        if labels is None:
            yield order[: count // 2], order[count // 2 :]
        else:
            order = order[labels[order].argsort(stable=True)]
            yield order[::2], order[1::2]


def _appearance(judge: DigitsJudge, tokens: Tensor) -> dict[str, float]:
    probs = judge.probabilities(tokens)
    return {
        "confidence": float(probs.amax(-1).mean()),
        "class_entropy": class_entropy(probs),
        "unique": unique_fraction(tokens),
    }


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )


def _train(network: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for _ in range(STEPS):
        rows = torch.randint(0, len(pixels), (BATCH_SIZE,), generator=generator)
        loss = functional.cross_entropy(network(pixels[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of sums, and so the last bits of a weight, may depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _to_pixels(tokens: Tensor, levels: int) -> Tensor:
    if tokens.ndim != 2 or tokens.shape[1] != 64:
        raise ValueError(f"Got tokens of shape {tuple(tokens.shape)}; digits are (N, 64).")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < levels:
        raise ValueError(
            f"Got tokens from {int(tokens.min())} to {int(tokens.max())}; pixels of {levels} "
            f"levels are in [0, {levels}): is a mask token left in the samples?"
        )
    return tokens.cpu().float().reshape(-1, 1, 8, 8) / (levels - 1)
