"""`hf-ddistill list`: every family, its members and where each comes from."""

from __future__ import annotations

from hf_ddistill.cli.common import write_json
from hf_ddistill.cli.members import family_class
from hf_ddistill.cli.options.list_families import FAMILIES, ListOptions
from hf_ddistill.schedulers import DiscreteSchedulerBase

#: What the measured total variations are to be held against.
TEACHER = (
    "  (measured: total variation from the data's law; of the exact teacher it is .4465 / .2216 / "
    ".1121 at 1 / 2 / 4 calls under masks, .4465 / .2911 / .1540 under uniform noise; "
    "docs/results/scoreboard.md)"
)


def run(options: ListOptions) -> int:
    """Print the families."""
    members = {shown: family_class(name).registry for shown, name in FAMILIES.items()}
    schedulers = DiscreteSchedulerBase.__subclasses__()
    members["schedulers"] = {cls.__name__: cls for cls in schedulers}
    rows = []
    for family, registry in members.items():
        if options.family not in (None, family):
            continue
        print(f"{family}:{TEACHER if family == 'objectives' else ''}")
        for name, cls in sorted(registry.items()):
            summary = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
            source = citation(cls)
            rows.append({"family": family, "id": name, "summary": summary, "citation": source})
            print(f"  {name:22} {summary}\n  {'':22} [{source}]")
            if hasattr(cls, "needs"):
                rows[-1]["needs"] = cls.needs()
                print(f"  {'':22} needs: {cls.needs()}")
            if measured := getattr(cls, "measured", ""):
                rows[-1]["measured"] = measured
                print(f"  {'':22} measured: {measured}")
    write_json(options.json, {"rows": rows})
    return 0


def citation(cls: type) -> str:
    """Where a class comes from: its `citation`, or the References of its docstring."""
    if getattr(cls, "citation", ""):
        return cls.citation
    _, _, rest = (cls.__doc__ or "").partition("References:")
    return " ".join(rest.split("\n\n")[0].split())
