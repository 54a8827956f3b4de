"""Write the generated parts of README and docs/performance.md: the demo's output, measured tables.

usage: readme.py [demo] [speed] [batches] [numerics]      (default: all)

The demo is run afresh; the tables come from the files in `results/` as `models.py`, `operators.py`,
`batches.py` and `numerics.py` left them, one for each machine. Each part stands between
`<!-- NAME:begin -->` and `<!-- NAME:end -->`. Tests hold that the tables are those of the committed
results.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results_file import RESULTS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PERFORMANCE = ROOT / "docs" / "performance.md"


def demo() -> str:
    """What `make demo` prints, from a run with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TILTH_CACHE_DIR": cache, "NO_COLOR": "1", "COLUMNS": "80"}
        command = [sys.executable, str(ROOT / "examples" / "digits" / "demo.py")]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return f"```text\n{run.stdout.rstrip()}\n```"


def speed() -> str:
    """How models were measured, and for each machine a table and the best operators."""
    parts = [_CONDITIONS]
    for folder in _folders("models"):
        models = json.loads((folder / "models.json").read_text())
        operators = json.loads((folder / "operators.json").read_text())
        parts += [_machine(models), _table(models), _operators(operators)]
    return "\n\n".join(parts)


_CONDITIONS = (
    "Median milliseconds for one call, batch 1, float32. One process per engine, taking turns "
    "while the others sleep (`make bench`). Tilth multiplies by Winograd's and Strassen's "
    "algorithms, or by six bf16 products in place of one where there is a matrix unit, unless "
    '`precision="exact"` is asked for. *Ratio* is Tilth over the better of the other two: below 1 '
    "is faster. *First result* is from import to output, cold and from the cache. *Error* is the "
    "largest difference to ONNX Runtime's outputs over the largest output. *MiB* is the peak "
    "memory of Tilth's process."
)


def _machine(document: dict[str, Any]) -> str:
    """What was measured on, with which versions, when."""
    machine = document["machine"]
    versions = machine["versions"]
    return (
        f"**{machine['processor']}**, {machine['threads']} threads "
        f"({', '.join(machine['features'])}), {machine['date']}; ONNX Runtime "
        f"{versions['onnxruntime']}, OpenVINO {versions['openvino']}:"
    )


def _table(models: dict[str, Any]) -> str:
    lines = [
        "| model | Tilth | ONNX Runtime | OpenVINO | ratio | first result, s | MiB | error |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in models["models"]:
        times = row["timings"]
        engines = ("tilth", "onnxruntime", "openvino")
        medians = " | ".join(f"{times[name]['median'] * 1e3:.2f}" for name in engines)
        lines.append(
            f"| {row['model']} | {medians} | {row['ratio']:.2f} "
            f"| {row['cold']:.1f}, {row['warm']:.2f} "
            f"| {times['tilth']['peak_bytes'] >> 20} | {row['error']:.0e} |"
        )
    lines.append(f"| geometric mean | | | | {models['geometric_mean']:.2f} | | | |")
    return "\n".join(lines)


def _operators(operators: dict[str, Any]) -> str:
    rows = operators["operators"]
    shown = [
        max((r for r in rows if r["name"].startswith(kind)), key=lambda r: r["share"])
        for kind in ("GEMM", "convolution 3x3", "convolution 1x1")
    ]
    shares = "; ".join(
        f"{r['name']}: {r['rate'] / 1e9:.0f} GFLOP/s, {r['share']:.0%}" for r in shown
    )
    return (
        f"Single operators next to the FMA peak measured in the same run ("
        f"{operators['machine']['threads']} threads): {shares}."
    )


def batches() -> str:
    """Milliseconds and ratios for several samples a call, for each machine."""
    return "\n\n".join(map(_batches, _documents("batches")))


def _batches(measured: dict[str, Any]) -> str:
    lines = ["| model | samples | Tilth | best rival | ratio |", "|---|--:|--:|--:|--:|"]
    for row in measured["models"]:
        cells = "| failed | | |"
        if not row["failures"]:
            medians = {name: t["median"] * 1e3 for name, t in row["timings"].items()}
            ours = medians.pop("tilth")
            cells = f"| {ours:.2f} | {min(medians.values()):.2f} | {row['ratio']:.2f} |"
        lines.append(f"| {row['model']} | {row['batch']} {cells}")
    means = (f"{mean:.2f} at {b} samples" for b, mean in measured["geometric_means"].items())
    means_line = f"Geometric means of the ratios: {', '.join(means)}."
    return "\n".join([_machine(measured), "", *lines, "", means_line])


def numerics() -> str:
    """Errors against double precision, for each machine."""
    return "\n\n".join(map(_numerics, _documents("numerics")))


def _numerics(measured: dict[str, Any]) -> str:
    lines = [
        '| model | Tilth | Winograd | `precision="exact"` | ONNX Runtime |',
        "|---|--:|---|--:|--:|",
    ]
    for row in measured["models"]:
        default, *others = (f"{row[name]:.1e}" for name in ("default", "exact", "onnxruntime"))
        cells = (row["model"], default, "yes" if row["winograd"] else "no", *others)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([_machine(measured), "", *lines])


def _documents(name: str) -> list[dict[str, Any]]:
    """What a benchmark left, on each machine where it was run."""
    return [json.loads((folder / f"{name}.json").read_text()) for folder in _folders(name)]


def _folders(name: str) -> list[Path]:
    return sorted(path.parent for path in RESULTS.glob(f"*/{name}.json"))


PARTS = {
    "demo": (README, demo),
    "speed": (README, speed),
    "batches": (PERFORMANCE, batches),
    "numerics": (PERFORMANCE, numerics),
}


def replace_part(text: str, name: str, content: str) -> str:
    """`text` with `content` between the markers of `name`."""
    before, begin, rest = text.partition(f"<!-- {name}:begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    if not (begin and end):
        raise SystemExit(f"no markers for '{name}'")
    return before + begin + (f"{content}\n" if content else "") + end + after


def main() -> None:
    for name in sys.argv[1:] or PARTS:
        page, part = PARTS[name]
        page.write_text(replace_part(page.read_text(), name, part()))


if __name__ == "__main__":
    main()
