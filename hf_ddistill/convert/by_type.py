"""Sources that the `model_type` of their configuration names."""

from __future__ import annotations

from typing import ClassVar

from hf_ddistill.convert.source import configuration


class ByType:
    """Recognises a folder by its type alone.

    Attributes:
        types: the spellings of it.
    """

    types: ClassVar[tuple[str, ...]]

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """Whether its configuration names one of the types."""
        return configuration(folder).get("model_type") in cls.types

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The type that its configuration names."""
        return f"its configuration is of {configuration(folder)['model_type']!r}"
