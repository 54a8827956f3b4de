"""Train the digit classifier and write everything the demo needs: model, held-out images, card.

Data are the 1797 handwritten digits bundled with scikit-learn (8x8 pixels, grey values 0..16; a
copy of the test set of the UCI "Optical Recognition of Handwritten Digits" data, CC BY 4.0). Run
it only to make the files anew: `pip install torch==2.13.0 onnxscript scikit-learn Pillow`, then
`python examples/digits/train.py`. The result is deterministic for one version of torch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).parent
SEED = 7
HELD_OUT = 360
EPOCHS = 40
BATCH = 64
GREY_LEVELS = 16  # the data set's white
PNG_STEP = 15  # one grey level in a PNG: 16 * 15 = 240 still fits a byte, so nothing is rounded


def block(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution that keeps the image's size, normalised and rectified."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def classifier() -> nn.Sequential:
    """Images [N, 1, 8, 8] in 0..1 -> logits [N, 10]."""
    return nn.Sequential(
        block(1, 16),
        block(16, 32),
        nn.MaxPool2d(2),
        block(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(64 * 2 * 2, 10),
    )


def shifted(images: Tensor) -> Tensor:
    """The batch moved by up to one pixel in each direction: the one augmentation used."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    return nn.functional.pad(images, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def train(images: Tensor, labels: Tensor) -> nn.Sequential:
    """Fit a classifier; images [N, 1, 8, 8], labels [N]."""
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(shifted(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write the classifier with a softmax behind it as ONNX: `image` -> `probabilities`."""
    with_softmax = nn.Sequential(model, nn.Softmax(dim=1)).eval()
    program = torch.onnx.export(
        with_softmax,
        (torch.zeros(2, 1, 8, 8),),
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
    )
    proto = program.model_proto
    for node in proto.graph.node:  # the exporter records stack traces, with this machine's paths
        del node.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def write_pngs(images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """One 8x8 grey PNG for each image [N, 8, 8] of 0..16, named `<number>_<label>.png`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = (image * PNG_STEP).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}_{label}.png", optimize=True)


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in one order: the same weights on every run
    data = load_digits()
    fit_images, test_images, fit_labels, test_labels = train_test_split(
        data.images, data.target, test_size=HELD_OUT, stratify=data.target, random_state=SEED
    )

    def tensor(images: np.ndarray) -> Tensor:
        return torch.tensor(images[:, None] / GREY_LEVELS, dtype=torch.float32)

    model = train(tensor(fit_images), torch.tensor(fit_labels))
    with torch.no_grad():
        guesses = model(tensor(test_images)).argmax(1).numpy()
    accuracy = float(np.mean(guesses == test_labels))

    export(model, HERE / "digits.onnx")
    write_pngs(test_images, test_labels, HERE / "held_out")
    card = {
        "data": "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)",
        "training_images": len(fit_labels),
        "held_out_images": len(test_labels),
        "held_out_accuracy": round(accuracy, 4),
        "white": GREY_LEVELS * PNG_STEP,
        "torch": torch.__version__,
    }
    (HERE / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"held-out accuracy {accuracy:.2%} on {len(test_labels)} images")


if __name__ == "__main__":
    main()
