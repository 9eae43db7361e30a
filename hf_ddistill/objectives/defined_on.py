"""Refusals of objectives on processes that they are not defined for, with one that fits."""

from __future__ import annotations

from hf_ddistill.diffusion import Diffusion


def require_masks(name: str, diffusion: Diffusion, instead: str) -> None:
    """Raise unless tokens are masked.

    Args:
        name: of the objective.
        diffusion: of the student.
        instead: what to take for the others, in words.
    """
    if not diffusion.reveals:
        raise ValueError(
            f"Objective {name!r} is of masked tokens, and the process {diffusion.process.id!r} "
            f"has none: take {instead}, or a masked student."
        )


def require_uniform(name: str, diffusion: Diffusion, instead: str) -> None:
    """Raise unless tokens are drawn afresh, each as likely as the others. Arguments as above."""
    if not (diffusion.process.redraws and diffusion.process.is_flat):
        raise ValueError(
            f"Objective {name!r} is of uniform noise, and the process is "
            f"{diffusion.process.id!r}: take {instead}, or a student of uniform noise."
        )
