"""`tilth doctor`: is everything here that Tilth needs?"""

from __future__ import annotations

import typer

from tilth.cli.console import out, table
from tilth.tools.checkup import checkup


def doctor() -> None:
    """Check Python, packages, processor, cache, and that native code compiles and runs."""
    shown = table("check", "", "found")
    findings = checkup()
    for finding in findings:
        shown.add_row(finding.check, "ok" if finding.ok else "FAILED", finding.detail)
    out.print(shown)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
