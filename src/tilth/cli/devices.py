"""`tilth devices`: what models can run on here."""

from __future__ import annotations

import tilth
from tilth.cli.console import out, table


def devices() -> None:
    """List the devices of this machine, real or simulated."""
    shown = table("device", "what it is")
    for device in tilth.devices():
        shown.add_row(str(device), device.description)
    out.print(shown)
