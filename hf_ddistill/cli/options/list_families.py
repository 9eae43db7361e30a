"""Options of `hf-ddistill list`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ddistill.cli.options.option import option, word
from hf_ddistill.cli.options.shared import WritesOptions
from hf_ddistill.cli.values import json_file

#: What each family is called here.
FAMILIES = {
    "objectives": "objective",
    "processes": "process",
    "schedules": "schedule",
    "parameterizations": "parameterization",
    "divergences": "divergence",
    "samplers": "sampler",
    "couplings": "coupling",
    "times": "timesampler",
    "weightings": "weighting",
    "unmasking": "unmasking",
    "judges": "judge",
    "converters": "converter",
}


@dataclass
class ListOptions(WritesOptions):
    """show every process, schedule, sampler, objective, ... with its citation"""

    family: str | None = word("only this one", None, choices=(*FAMILIES, "schedulers"))
    json: str | None = option("write the members as rows of JSON", kind=json_file, metavar="FILE")
