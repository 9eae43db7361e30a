"""The same tensors under other names: one table for both directions.

A name is written with `{}` for each number that is counted, such as `blocks.{}.norm1.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

#: What wrappers of training put in front of or into names.
_WRAPPERS = ("_orig_mod.", "module.")


@dataclass(frozen=True)
class Renaming:
    """A one-to-one table of names.

    Args:
        pairs: (theirs, ours), both with as many `{}`, in the same order.
        prefix: what stands in front of all names of theirs, perhaps repeatedly, in some files.
        unlearned: endings of those of their names that hold nothing learned.
    """

    pairs: tuple[tuple[str, str], ...]
    prefix: str = ""
    unlearned: tuple[str, ...] = ()

    def ours(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors under our names; a name that the table lacks stays as it is."""
        kept = {self.bare(key): value for key, value in weights.items()}
        return {
            _renamed(key, self.pairs): value
            for key, value in kept.items()
            if not key.endswith(self.unlearned or ("\0",))
        }

    def theirs(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under their names, behind the prefix."""
        back = tuple((ours, theirs) for theirs, ours in self.pairs)
        return {self.prefix + _renamed(key, back): value for key, value in weights.items()}

    def bare(self, key: str) -> str:
        """A name of theirs without what wrappers of training and the prefix put in front."""
        for part in _WRAPPERS:
            key = key.replace(part, "")
        while self.prefix and key.startswith(self.prefix):
            key = key.removeprefix(self.prefix)
        return key


def check_same(
    found: Mapping[str, Collection[int]], wanted: Mapping[str, Collection[int]], source: str
) -> None:
    """Raise unless two tables of shapes agree, with what differs in groups and the likely cause.

    Args:
        found: name -> shape, of what is there.
        wanted: likewise, of what the model needs.
        source: what the sentence calls it, with its kind.

    Raises:
        ValueError: "SOURCE: missing are ...; unexpected are ...; of another size are ...".
    """
    missing, unexpected = set(wanted) - set(found), set(found) - set(wanted)
    sizes = [
        f"{key} {tuple(found[key])} for {tuple(wanted[key])}"
        for key in wanted
        if key in found and tuple(found[key]) != tuple(wanted[key])
    ]
    if not (missing or unexpected or sizes):
        return
    said = [f"missing are {grouped(missing)}"] if missing else []
    said += [f"unexpected are {grouped(unexpected)}"] if unexpected else []
    said += [f"of another size are {', '.join(sizes[:3])}"] if sizes else []
    said += [f"and {len(sizes) - 3} more"] if len(sizes) > 3 else []
    cause = _cause(missing, unexpected, sizes)
    raise ValueError(f"{source}: {'; '.join(said)}{cause}.")


def grouped(names: Iterable[str]) -> str:
    """Names that differ in their numbers alone as one, with how many they are."""
    groups: dict[str, int] = {}
    for name in sorted(names):
        group = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        groups[group] = groups.get(group, 0) + 1
    most = 6
    said = [f"{group} ({count})" if count > 1 else group for group, count in groups.items()]
    rest = len(said) - most
    return ", ".join(said[:most]) + (f" and {rest} more kinds" if rest > 0 else "")


def _renamed(key: str, pairs: Iterable[tuple[str, str]]) -> str:
    for source, target in pairs:
        numbers = re.fullmatch(re.escape(source).replace(r"\{\}", r"(\d+)"), key)
        if numbers:
            return target.format(*numbers.groups())
    return key


def _cause(missing: set[str], unexpected: set[str], sizes: list[str]) -> str:
    """Why names or sizes may differ, where it can be guessed."""

    def kinds(names: set[str]) -> set[str]:
        return {re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names}

    if (
        missing
        and unexpected
        and all(any(theirs.endswith("." + ours) for theirs in unexpected) for ours in missing)
    ):
        return " (the names stand behind another prefix)"
    if (missing or unexpected) and not sizes and not (missing and unexpected):
        layered = all("*" in kind for kind in kinds(missing | unexpected))
        if layered:
            more = "fewer" if missing else "more"
            return f" (the weights have {more} layers than the configuration says, or a cut file)"
    if sizes and not (missing or unexpected):
        return " (the configuration gives other sizes than the weights have)"
    return ""
