"""ReMDM's samplers by the names that its configurations give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_ddistill.convert.ddit_checkpoint import part_of
from hf_ddistill.models import DDiTForDiscreteDiffusion, enter_sampler
from hf_ddistill.samplers import ReMDM, ReMDMConfidence, ReMDMLoop, Sampler


def enter_remasking(model: DDiTForDiscreteDiffusion, config: Mapping[str, Any]) -> None:
    """Enter the sampler that ReMDM's `sampling.sampler` names, where it names one of its own.

    Raises:
        ValueError: for settings outside of what the sampler takes.
    """
    sampling = part_of(config, "sampling")
    sampler = _sampler(str(sampling.get("sampler")), sampling)
    if sampler is not None:
        enter_sampler(model, sampler, int(sampling.get("steps", 128)))


def _sampler(name: str, sampling: Mapping[str, Any]) -> Sampler | None:
    eta = {"eta": float(sampling["eta"])} if "eta" in sampling else {}
    if name in ("remdm-cap", "remdm-rescale"):
        return ReMDM(strategy=name.removeprefix("remdm-"), **eta)
    if name == "remdm-conf":
        return ReMDMConfidence()
    if name == "remdm-loop":
        ends = (("t_on", "begins"), ("t_off", "ends"))
        places = {ours: 1 - float(sampling[key]) for key, ours in ends if key in sampling}
        alpha = {"alpha": float(sampling["alpha_on"])} if "alpha_on" in sampling else {}
        return ReMDMLoop(**eta, **places, **alpha)
    return None
