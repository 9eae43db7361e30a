"""The code in README and docs: blocks between fences, commands, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("model_cards/**/*.md"),
        *ROOT.glob("hf_ddistill/assets/*/README.md"),
    ]
)
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """Text between two fences.

    Args:
        language: "python", "bash", ...
        mark: why it does not run here, or "".
        text: what stands between the fences.
    """

    language: str
    mark: str
    text: str


def name(page: Path) -> str:
    """A page as tests call it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language, in the order of the page."""
    found = [Block(a, b.strip(), c) for a, b, c in FENCE.findall(page.read_text())]
    return [block for block in found if block.language == language]


def commands(page: Path) -> list[list[str]]:
    """The words of every command, of blocks and of code within a sentence; those that stand for
    several (with `...`) are left out."""
    text = page.read_text()
    lines = [line for block in blocks(page, "bash") for line in joined(block.text)]
    lines += re.findall(r"`((?:hf-ddistill|python|pytest) [^`\n]*)`", FENCE.sub("", text))
    parts = [part for line in lines for part in line.split(" && ")]
    return [shlex.split(part, comments=True) for part in parts if "..." not in part]


def joined(text: str) -> list[str]:
    """Lines, those that end with a backslash put together."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def links(page: Path) -> list[Path]:
    """Where a page's links and pictures lead within the repository."""
    text = FENCE.sub("", page.read_text())
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [page.parent / link for link in found if "://" not in link]
