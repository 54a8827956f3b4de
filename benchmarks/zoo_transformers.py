"""Models of `transformers`, from the library's configurations, with random weights.

The configurations are those of well-known models; a few have fewer layers or words, so that files
stay small. Each entry makes a module and inputs to export it with (see `zoo.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo_networks import Example, pixels

os.environ["HF_HUB_OFFLINE"] = "1"  # configurations come from the library, nothing is fetched
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import transformers

EAGER: dict[str, Any] = {
    "attn_implementation": "eager"
}  # where the exporter cannot follow the fused one


class Called(nn.Module):
    """A model of `transformers`, called with named tensors; gives what it puts first."""

    def __init__(self, model: nn.Module, names: Sequence[str], **constants: object):
        super().__init__()
        self.model, self.names, self.constants = model, names, constants

    def forward(self, *inputs: Tensor) -> Any:
        fed = dict(zip(self.names, inputs, strict=True))
        return self.model(**fed, **self.constants, return_dict=False)[0]


class WithCache(nn.Module):
    """One step of a decoder: a token after `past` tokens, whose keys and values are inputs."""

    def __init__(self, model: nn.Module, past: int):
        super().__init__()
        self.model, self.past = model, past

    def forward(self, token: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = transformers.DynamicCache()
        for layer, (key, value) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(key, value, layer)
        position = torch.full((1, 1), self.past)
        logits = self.model(input_ids=token, past_key_values=cache, position_ids=position).logits
        return (logits, *(state for layer in cache.layers for state in (layer.keys, layer.values)))


def tokens(length: int) -> tuple[Tensor, Tensor]:
    """Ids and a mask that hides nothing."""
    return torch.randint(0, 100, (1, length)), torch.ones(1, length, dtype=torch.int64)


def vision(
    name: str, config: dict[str, Any], head: str = "ForImageClassification", size: int = 224
) -> Example:
    """A vision model of `transformers`; where `config` says nothing, as the library does."""
    model = getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**config))
    return Called(model, ["pixel_values"]), pixels(3, size, size)


def text(name: str, config: dict[str, Any], part: str = "Model", length: int = 128) -> Example:
    """A text encoder of `transformers`, with a mask."""
    model = getattr(transformers, f"{name}{part}")(getattr(transformers, f"{name}Config")(**config))
    return Called(model, ["input_ids", "attention_mask"]), tokens(length)


def llama() -> nn.Module:
    """Four layers of a small Llama: RMS norms, rotary positions, SwiGLU, grouped queries."""
    config: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 4,
    }
    config |= {"num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": True}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))


def llama_step(past: int = 64) -> Example:
    states = (torch.rand(1, 4, past, 64) for _ in range(8))
    return WithCache(llama(), past), (torch.tensor([[42]]), *states)


def speech() -> Example:
    """The first four layers of wav2vec 2.0, after its seven 1-D convolutions; one second."""
    config = transformers.Wav2Vec2Config(num_hidden_layers=4)
    return Called(transformers.Wav2Vec2ForCTC(config), ["input_values"]), (torch.rand(1, 16000),)


def whisper() -> Example:
    config = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6}
    model = transformers.WhisperModel(transformers.WhisperConfig(**config, encoder_ffn_dim=1536))
    return Called(model.encoder, ["input_features"]), pixels(80, 3000)


def efficientnet() -> Example:
    config = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
    called, inputs = vision("EfficientNet", {"image_size": 224, "num_labels": 1000} | config)
    called.model.efficientnet.pooler = nn.AdaptiveAvgPool2d(1)  # OpenVINO refuses its huge window
    return called, inputs


THOUSAND: dict[str, Any] = {"num_labels": 1000}
RESNET18: dict[str, Any] = THOUSAND | {"layer_type": "basic", "embedding_size": 64}
RESNET18 |= {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
REGNET: dict[str, Any] = THOUSAND | {"layer_type": "y", "embedding_size": 32, "groups_width": 16}
REGNET |= {"hidden_sizes": [64, 128, 320, 768], "depths": [1, 3, 8, 2]}
YOLOS: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
BASE: dict[str, Any] = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
MINILM = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
DEBERTA: dict[str, Any] = BASE | {"num_hidden_layers": 4, "vocab_size": 8000}
DEBERTA |= {"relative_attention": True, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"]}
DEBERTA |= {"share_att_key": True, "position_biased_input": False, "norm_rel_ebd": "layer_norm"}

TRANSFORMERS: dict[str, Callable[[], Example]] = {
    "albert_128": lambda: text("Albert", BASE),
    "convnext_tiny": lambda: vision("ConvNext", THOUSAND),
    "deberta_128": lambda: text("DebertaV2", DEBERTA),
    "distilbert_128": lambda: text("DistilBert", {"vocab_size": 8000}),
    "efficientnet_b0": efficientnet,
    "llama_prompt_64": lambda: (Called(llama(), ["input_ids"], use_cache=False), tokens(64)[:1]),
    "llama_step_64": llama_step,
    "minilm_128": lambda: text("Bert", MINILM | {"num_hidden_layers": 6}),
    "mobilevit_small": lambda: vision("MobileViT", {}, size=256),
    "regnet_y": lambda: vision("RegNet", REGNET),
    "resnet18": lambda: vision("ResNet", RESNET18),
    "segformer_b0_256": lambda: vision("Segformer", {}, "ForSemanticSegmentation", 256),
    "swin_tiny": lambda: vision("Swin", THOUSAND | EAGER),
    "t5_small_encoder_128": lambda: text("T5", {"vocab_size": 8000} | EAGER, "EncoderModel"),
    "wav2vec2_4_layers": speech,
    "whisper_tiny_encoder": whisper,
    "yolos_tiny_256": lambda: vision(
        "Yolos", YOLOS | {"image_size": [256, 256]}, "ForObjectDetection", 256
    ),
}
