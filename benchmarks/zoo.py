"""Write models of many architectures that people run, with seeded random weights, as ONNX files.

usage: zoo.py DIRECTORY [--only NAME]

Some are made from the configurations of `transformers` (`zoo_transformers.py`), the others are
networks of our own (`zoo_networks.py`). Batch norms hold the statistics of a random input, so that
no layer's results vanish. Files that are there are kept. `make zoo` installs what this needs and
times the models with `models.py`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from zoo_networks import NETWORKS, Example

OPSET = 20


def calibrate(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Let batch norms hold the statistics of `inputs`, and scale and shift a little."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    if norms:
        model(*inputs)
    model.eval()


def write(make: Callable[[], Example], path: Path) -> None:
    """Make one model, the same one always, and export it."""
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    with torch.no_grad():
        calibrate(model, inputs)
    program = torch.onnx.export(model, inputs, dynamo=True, opset_version=OPSET, verbose=False)
    onnx.save(program.model_proto, path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write models of many architectures.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", default="", help="models whose name contains this")
    return parser.parse_args()


def main() -> int:
    from zoo_transformers import TRANSFORMERS  # slow, and not needed by those who import `write`

    arguments = parse_arguments()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name, make in (NETWORKS | TRANSFORMERS).items():
        path = arguments.directory / f"{name}.onnx"
        if arguments.only in name and not path.exists():
            write(make, path)
            print(f"{name}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
