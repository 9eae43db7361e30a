"""`hf-ddistill push`: share a model folder on the Hub."""

from __future__ import annotations

from hf_ddistill.cli.options.push import PushOptions
from hf_ddistill.outputs.rule import shown
from hf_ddistill.sharing import Shipment, is_private, push

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def run(options: PushOptions) -> int:
    """Say what goes and what stays, and upload."""

    def tell(cargo: Shipment) -> None:
        found = is_private(options.repo)
        private = options.private if found is None else found
        print(describe(cargo, options.folder, options.repo, private), flush=True)

    print(push(options.folder, options.repo, options.private, tell))
    return 0


def describe(cargo: Shipment, folder: str, repo_id: str, private: bool) -> str:
    """What is uploaded, how much, from and to where, for whom, and what is left out."""
    who = "private: you alone see it" if private else "public: everybody can read it"
    lines = [
        f"Pushing {len(cargo.files)} files ({_bytes(cargo.size)}) of {folder} to {repo_id}, {who}:",
        f"  {', '.join(cargo.files)}",
        f"Left out: {shown(list(cargo.left_out), most=40) or 'nothing'}.",
    ]
    if cargo.base not in (None, repo_id):
        lines.append(f"These are adapters: whoever opens them needs their base, {cargo.base}.")
    return "\n".join(lines)


def _bytes(size: int) -> str:
    number, unit = float(size), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g} {_UNITS[unit]}"
