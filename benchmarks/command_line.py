"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results_file import MixedResultsError, ResultsFile
from tilth.tools.machine import describe_machine


def options(description: str) -> argparse.ArgumentParser:
    """--threads, --json and --add."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument(
        "--add", action="store_true", help="keep the results of other models in that file"
    )
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


def results_file(arguments: argparse.Namespace, **form: Any) -> ResultsFile:
    """The file of --json, with what --add keeps of it; `form` as for `ResultsFile`.

    Ends the program with a message if that cannot be kept.
    """
    machine = describe_machine(arguments.threads)
    try:
        return ResultsFile(arguments.json, machine, arguments.add, **form)
    except MixedResultsError as e:
        raise SystemExit(str(e)) from None


def write_json(path: Path | None, document: Mapping[str, Any]) -> None:
    """Where --json says, if it says so."""
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n")
