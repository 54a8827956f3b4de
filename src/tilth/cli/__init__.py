"""The command line: one file per command, which parses, calls the library, and prints.

What a user can mend ends as one line on stderr and exit code 2, a bug in Tilth as one line and
exit code 1; TILTH_DEBUG=1 shows the traceback instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The `tilth` command; `arguments` default to those of the process. Always exits."""
    from tilth.cli.app import app
    from tilth.ir.errors import TilthError

    if os.environ.get("TILTH_DEBUG") == "1":
        sys.exit(app(arguments, prog_name="tilth"))
    try:
        sys.exit(app(arguments, prog_name="tilth"))
    except (TilthError, OSError) as e:
        _fail(str(e), 2)
    except Exception as e:
        _fail(f"internal error: {type(e).__name__}: {e} (TILTH_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
