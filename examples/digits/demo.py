"""The first job: compile a digit classifier, read 360 PNGs it has never seen, check every answer.

The exit code is 0 only when the accuracy is what training measured (see `card.json`) and the
compiled code agrees with the reference interpreter. Usage: python demo.py [--device cpu]
[--threads 0] [--rows 12]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import tilth

HERE = Path(__file__).parent
ACCURACY_MARGIN = 0.003  # one image of the 360 may tip over between two machines
AGREEMENT = 1e-4  # largest difference between probabilities, compiled and interpreted


@dataclass(frozen=True)
class Guess:
    """What the model says about one image."""

    file: str
    truth: int
    probabilities: np.ndarray
    seconds: float

    @property
    def digit(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def right(self) -> bool:
        return self.digit == self.truth


def read_image(path: Path, white: int) -> np.ndarray:
    """A grey PNG as float32 [1, 1, 8, 8], black 0 to white 1."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"), np.float32)
    return pixels[None, None] / np.float32(white)


def classify(model: tilth.Compiled, images: dict[Path, np.ndarray]) -> list[Guess]:
    """One call per image, as a camera would deliver them; the file name ends with the label."""
    guesses = []
    for path, image in images.items():
        start = time.perf_counter()
        probabilities = model({"image": image})["probabilities"][0]
        seconds = time.perf_counter() - start
        guesses.append(Guess(path.name, int(path.stem.split("_")[1]), probabilities, seconds))
    return guesses


def difference_from_reference(
    model: tilth.Model, images: dict[Path, np.ndarray], guesses: list[Guess]
) -> float:
    """Largest difference between the guesses and what the interpreter says, all images at once."""
    interpreter = model.compile("reference", shapes={"batch": len(images)})
    expected = interpreter({"image": np.concatenate([*images.values()])})["probabilities"]
    return float(np.abs(np.stack([guess.probabilities for guess in guesses]) - expected).max())


def table(guesses: list[Guess], rows: int) -> Table:
    """The first `rows` guesses, then every other wrong one."""
    result = Table(
        "image",
        "is",
        "says",
        "confidence",
        "latency",
        title=f"The first {rows} images, then every mistake",
    )
    for column in result.columns[1:]:
        column.justify = "right"
    for number, guess in enumerate(guesses):
        if number == rows:
            result.add_section()
        if number < rows or not guess.right:
            result.add_row(
                guess.file,
                str(guess.truth),
                str(guess.digit) if guess.right else f"[red]{guess.digit}[/red]",
                f"{guess.probabilities.max():.1%}",
                f"{guess.seconds * 1e6:.0f} us",
            )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Classify held-out digits with compiled code.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--rows", type=int, default=12, help="images shown besides the wrong ones")
    arguments = parser.parse_args()
    console = Console()

    card = json.loads((HERE / "card.json").read_text())
    images = {path: read_image(path, card["white"]) for path in sorted(HERE.glob("held_out/*.png"))}
    model = tilth.load(HERE / "digits.onnx")
    start = time.perf_counter()
    compiled = model.compile(arguments.device, arguments.threads, shapes={"batch": 1})
    compiled({"image": next(iter(images.values()))})
    console.print(
        f"digits.onnx compiled for {arguments.device}: first answer after "
        f"{time.perf_counter() - start:.2f} s"
    )

    guesses = classify(compiled, images)
    console.print(table(guesses, arguments.rows))

    difference = difference_from_reference(model, images, guesses)
    right = sum(guess.right for guess in guesses)
    accuracy = right / len(guesses)
    median = statistics.median(guess.seconds for guess in guesses)
    console.print(f"median latency {median * 1e6:.0f} us per image")
    console.print(f"largest difference from the reference interpreter {difference:.1e}")
    console.print(
        f"accuracy {accuracy:.2%}: {right} of {len(guesses)} held-out images "
        f"(training measured {card['held_out_accuracy']:.2%})"
    )
    good = accuracy >= card["held_out_accuracy"] - ACCURACY_MARGIN and difference <= AGREEMENT
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
