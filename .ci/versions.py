"""Which versions CI installs: those of `constraints.txt`, and the lowest that are claimed.

    python .ci/versions.py lowest      a constraint for each lower bound of pyproject.toml
    python .ci/versions.py renew       write constraints.txt: the newest of what the README's two
                                       commands install, found by a fresh environment

Nothing but the standard library is needed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A plain `torch` is a CUDA build of gigabytes; the README names this one, for the CPU alone.
TORCH = "torch==2.13.0"
HEAD = """\
# What `pip install -c constraints.txt ...` installs, direct and indirect: the versions that the
# tests passed with. Renewed by `python .ci/versions.py renew`; never edited by hand.
"""


def lowest() -> list[str]:
    """One `name==version` for each `name>=version` of the dependencies and of the tests.

    Raises:
        SystemExit: for a requirement without a lower bound.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pins = []
    for requirement in needed:
        found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,<[\w.]+)?", requirement)
        if found is None:
            raise SystemExit(f"{requirement!r} of pyproject.toml names no lowest version (>=).")
        pins.append(f"{found[1]}=={found[2]}")
    return pins


def renewed() -> str:
    """The text of `constraints.txt` for the newest versions that pyproject.toml allows."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet", TORCH, "-e", f"{ROOT}[dev]"]
        subprocess.run(install, check=True)
        freeze = [python, "-m", "pip", "freeze", "--exclude-editable"]
        lines = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    # `2.13.0+cpu` is the build of one machine; every build of 2.13.0 will do.
    pins = sorted((line.split("+")[0] for line in lines.splitlines()), key=str.lower)
    return HEAD + "\n".join(pins) + "\n"


def main() -> None:
    """The command."""
    if sys.argv[1:] == ["lowest"]:
        print("\n".join(lowest()))
    elif sys.argv[1:] == ["renew"]:
        (ROOT / "constraints.txt").write_text(renewed())
    else:
        raise SystemExit(f"{' '.join(sys.argv[1:])!r} is none of: lowest, renew.")


if __name__ == "__main__":
    main()
