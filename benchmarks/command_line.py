"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def options(description: str) -> argparse.ArgumentParser:
    """--threads and --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser


def model_options(description: str) -> argparse.ArgumentParser:
    """These, a directory, and --only."""
    parser = options(description)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", default="", help="models whose name contains this")
    return parser


def chosen_models(arguments: argparse.Namespace) -> list[Path]:
    """The .onnx files of the directory whose name contains what --only says."""
    return [p for p in sorted(arguments.directory.glob("*.onnx")) if arguments.only in p.stem]


def write_json(path: Path | None, document: Mapping[str, Any]) -> None:
    """Where --json says, if it says so."""
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n")
