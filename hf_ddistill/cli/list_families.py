"""`hf-ddistill list`: every family, its members and where each comes from."""

from __future__ import annotations

import argparse

from hf_ddistill.cli.common import add_json, write_json
from hf_ddistill.convert import Converter
from hf_ddistill.couplings import Coupling, TimeSampler
from hf_ddistill.divergences import Divergence
from hf_ddistill.evaluation import Judge
from hf_ddistill.objectives import Objective
from hf_ddistill.parameterizations import Parameterization
from hf_ddistill.processes import Process
from hf_ddistill.schedulers import DiscreteSchedulerBase
from hf_ddistill.schedules import Schedule
from hf_ddistill.unmasking import Unmasking

HELP = "show every process, schedule, sampler, objective, ... with its citation"
FAMILIES = {
    "objectives": Objective,
    "processes": Process,
    "schedules": Schedule,
    "parameterizations": Parameterization,
    "divergences": Divergence,
    "couplings": Coupling,
    "times": TimeSampler,
    "unmasking": Unmasking,
    "judges": Judge,
    "converters": Converter,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "family", nargs="?", choices=[*FAMILIES, "schedulers"], help="only this one"
    )
    add_json(parser, "the members")


def run(args: argparse.Namespace) -> int:
    """Print the families."""
    members = {name: family.registry for name, family in FAMILIES.items()}
    schedulers = DiscreteSchedulerBase.__subclasses__()
    members["schedulers"] = {cls.__name__: cls for cls in schedulers}
    rows = []
    for family, registry in members.items():
        if args.family not in (None, family):
            continue
        print(f"{family}:")
        for name, cls in sorted(registry.items()):
            summary = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
            source = citation(cls)
            rows.append({"family": family, "id": name, "summary": summary, "citation": source})
            print(f"  {name:22} {summary}\n  {'':22} [{source}]")
            if hasattr(cls, "needs"):
                rows[-1]["needs"] = cls.needs()
                print(f"  {'':22} needs: {cls.needs()}")
    write_json(args.json, {"rows": rows})
    return 0


def citation(cls: type) -> str:
    """Where a class comes from: its `citation`, or the References of its docstring."""
    if getattr(cls, "citation", ""):
        return cls.citation
    _, _, rest = (cls.__doc__ or "").partition("References:")
    return " ".join(rest.split("\n\n")[0].split())
