"""How each process noises the same handwritten digit, drawn as text.

python examples/01_forward_process.py
"""

import torch
from sklearn.datasets import load_digits

from hf_ddistill import Absorbing, Diffusion, Hybrid, LogLinear, Ordinal, Uniform

LEVELS = 17
SHADES = " .:-=+*#%@"


def draw(tokens: torch.Tensor) -> list[str]:
    """Eight lines of text for 64 tokens; a mask is a question mark."""
    grid = tokens.reshape(8, 8).tolist()
    return ["".join("?" if v >= LEVELS else SHADES[v * 9 // 16] for v in row) for row in grid]


digit = torch.from_numpy(load_digits().images[2]).long().reshape(1, 64)
times = [0.0, 0.25, 0.5, 0.75, 1.0]

for process in (
    Absorbing(LEVELS + 1),  # tokens become a mask and stay one
    Uniform(LEVELS),  # tokens become any token
    Hybrid(LEVELS + 1, uniform=0.3),  # some of both
    Ordinal(LEVELS),  # brightness walks up and down
):
    diffusion = Diffusion(process, LogLinear())
    generator = torch.Generator().manual_seed(0)
    print(f"\n{process.to_config()}")
    pictures = [draw(diffusion.corrupt(digit, t, generator)) for t in times]
    print("   ".join(f"t={t:<6.2f}" for t in times))
    for lines in zip(*pictures, strict=True):
        print("   ".join(lines))

    # The kernel is an operator: two short ones make a long one, and each has an inverse.
    two = diffusion.kernel(0.0, 0.3) @ diffusion.kernel(0.3, 0.8)
    error = (two.dense() - diffusion.kernel(0.0, 0.8).dense()).abs().max()
    print(f"P(0, .3) P(.3, .8) = P(0, .8) to {error:.1e}")
    assert error < 1e-12
