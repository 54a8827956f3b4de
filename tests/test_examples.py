"""The examples work as a newcomer runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DIGITS / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_digits_demo_reaches_the_accuracy_that_training_measured(device: str):
    demo = run_demo("--device", device)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    accuracy = re.search(r"accuracy ([\d.]+)%: (\d+) of (\d+)", demo.stdout)
    assert accuracy and float(accuracy[1]) >= 98


def test_digits_held_out_images_are_those_of_the_card():
    card = json.loads((DIGITS / "card.json").read_text())
    labels = [path.stem.split("_")[1] for path in DIGITS.glob("held_out/*.png")]
    assert len(labels) == card["held_out_images"]
    assert set(labels) == set("0123456789")


def test_digits_model_records_no_path_of_the_machine_that_trained_it():
    model = onnx.load(DIGITS / "digits.onnx")
    assert not [node.name for node in model.graph.node if node.metadata_props or node.doc_string]
    assert not model.metadata_props
