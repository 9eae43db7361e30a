"""`hf-ddistill`: one command for each thing that a user does."""

from __future__ import annotations

from hf_ddistill.cli.main import main

__all__ = ["main"]
