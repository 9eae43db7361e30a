"""A small classifier of digits, trained in seconds on scikit-learn's images.

N samples, 64 = 8 x 8 pixels, `levels` values per pixel (2 to 17), C = 10 classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from hf_ddistill.evaluation.digits_data import load_digit_tokens, split_digits

FILE_NAME = "digits_classifier.safetensors"
STEPS, BATCH_SIZE, LEARNING_RATE = 600, 128, 1e-3


class DigitsClassifier:
    """A convolutional classifier of digits, whose last hidden layer is the feature space.

    features = tanh(W relu(conv(relu(conv(x / (levels - 1)))))), the Fréchet distance's 32 numbers

    Make one with `DigitsClassifier.fit(levels)` or `.load(folder)`. It runs on the CPU.

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
        made = cls(network, levels, float("nan"))
        named = made.probabilities(data.held_out_tokens).argmax(-1)
        made.accuracy = float((named == data.held_out_labels).double().mean())
        return made

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
        """Write `digits_classifier.safetensors` into a folder, which is made if need be."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        about = {"levels": json.dumps(self.levels), "accuracy": json.dumps(self.accuracy)}
        save_file(self.network.state_dict(), Path(folder) / FILE_NAME, metadata=about)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if the folder holds no classifier.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"No classifier at {path}; make one with DigitsClassifier.fit(levels)."
            )
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}
        with torch.device("meta"):
            network = _network()
        network.load_state_dict(weights, assign=True)
        return cls(network, json.loads(about["levels"]), json.loads(about["accuracy"]))


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
