"""What the configurations of others say, field by field: needed, known, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fields:
    """The fields of a `config.json`.

    Args:
        values: as they stand there.
        source: where they stand, for the errors.
    """

    values: Mapping[str, Any]
    source: str

    def count(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number.

        Args:
            name: of the field.
            default: where it is missing or null; without one it is needed.
            least: the smallest that is accepted.

        Raises:
            ValueError: if it is needed and missing, or something else.
        """
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        said = "lacks" if value is None else f"gives {value!r} for"
        kind = "a positive number" if least else "a token's number"
        raise ValueError(f"The config.json of {self.source} {said} {name}, {kind}.")

    def token(self, name: str) -> int | None:
        """A token's number; None where it is missing or null. Errors as `count`."""
        return None if self.values.get(name) is None else self.count(name, least=0)

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0; arguments and errors as `count`."""
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return value
        said = "lacks" if value is None else f"gives {value!r} for"
        raise ValueError(f"The config.json of {self.source} {said} {name}, a number above 0.")

    def flag(self, name: str, default: bool) -> bool:
        """True or false; `default` where it is missing or null.

        Raises:
            ValueError: if it is something else.
        """
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ValueError(
                f"The config.json of {self.source} gives {value!r} for {name}, true or false."
            )
        return value

    def check(self, known: Mapping[str, tuple[Any, Any]], kind: str) -> None:
        """Raise for a field whose value asks for another network.

        Args:
            known: field -> (the value that is read, what it is where it is missing).
            kind: what the network is then, such as "a Llama".
        """
        for name, (accepted, absent) in known.items():
            value = self.values.get(name)
            value = absent if value is None else value
            if value != accepted:
                told = "" if self.values.get(name) is not None else ", as it is where not given"
                raise ValueError(
                    f"The config.json of {self.source} has {name}={value!r}{told}; {kind} has "
                    f"{name}={accepted!r}, and no other is read."
                )
