"""Options of `hf-ddistill push`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ddistill.cli.options.option import option, word


@dataclass
class PushOptions:
    """push a model, pipeline or adapter folder, with its card, to the Hub"""

    folder: str = word("of a model, pipeline or adapter")
    repo: str = word("user/name on the Hub")
    private: bool = option(
        "make a repository that you alone see (default: all the world reads it)", False
    )
