"""Build the four basic architectures in any size, and example data of the classic shapes.

The trained models are in the registry (`sample_models.load_model`). This module is for those who
want an architecture with arguments of their own, or inputs like 28×28 or 32×32 colour images.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Final, TypedDict

import torch
from torch import nn
from torch.nn import functional as F

from sample_models.cnn import SimpleCNN
from sample_models.data import IMAGE_SIZE, as_images, load_pixels
from sample_models.errors import SampleModelError, unknown_name
from sample_models.mlp import SimpleMLPClassifier
from sample_models.registry import load_model
from sample_models.resnet import SimpleResNet
from sample_models.transformer import SimpleTransformer

_SIDE: Final = 28
"""Height and width of the image that 784 numbers make."""

_VOCABULARY: Final = 1000
_SENTENCE: Final = 100

_KINDS: Final = ("cnn", "mlp", "transformer")


class ArchitectureInfo(TypedDict):
    """What `ModelFactory.get_model_info` returns."""

    total_parameters: int
    trainable_parameters: int
    layer_types: dict[str, int]
    model_class: str


class ModelFactory:
    """Builds architectures by name, and counts what a model is made of."""

    @staticmethod
    def create_model(model_name: str, **kwargs: object) -> nn.Module:
        """Build an untrained model of the given size.

        Its weights are torch's random initial ones: with free arguments there is nothing trained
        to load. For a trained model use `sample_models.load_model`.

        Args:
            model_name: ``"mlp"``, ``"cnn"``, ``"resnet"`` or ``"transformer"``.
            **kwargs: Arguments of `SimpleMLPClassifier`, `SimpleCNN`, `SimpleResNet` or
                `SimpleTransformer`. Those left out get defaults: 784 inputs, 3 channels, a
                vocabulary of 1000, sentences of 100, 10 classes.

        Returns:
            The model, in training mode.

        Raises:
            UnknownNameError: If there is no such architecture, or it has no such argument.

        Example:
            >>> ModelFactory.create_model("mlp", hidden_sizes=[32]).network[0]
            Linear(in_features=784, out_features=32, bias=True)
        """
        if model_name not in _ARCHITECTURES:
            raise unknown_name("architecture", model_name, _ARCHITECTURES)
        build = _ARCHITECTURES[model_name]
        allowed = inspect.signature(build).parameters
        for key in kwargs:
            if key not in allowed:
                raise unknown_name(f"argument of {model_name!r}", key, allowed)
        return build(**kwargs)

    @staticmethod
    def get_model_info(model: nn.Module) -> ArchitectureInfo:
        """Count a model's parameters and modules.

        Returns:
            ``total_parameters``, ``trainable_parameters``, ``layer_types`` (modules of each type,
            containers and the model itself included) and ``model_class``.

        Example:
            >>> ModelFactory.get_model_info(nn.Linear(2, 3))["total_parameters"]
            9
        """
        parameters = list(model.parameters())
        return {
            "total_parameters": sum(parameter.numel() for parameter in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "layer_types": dict(Counter(type(module).__name__ for module in model.modules())),
            "model_class": type(model).__name__,
        }


def create_sample_models() -> dict[str, nn.Module]:
    """Build five models for inputs of the classic shapes, trained where there is data for them.

    ``mlp_small`` and ``mlp_large`` classify 28×28 images, flattened to 784 numbers, and are
    trained: they are the registry's ``mlp`` and ``mlp_wide`` with the reduction from 28×28 to the
    8×8 they were trained on multiplied into the first layer, so they agree with those exactly.
    ``cnn_simple`` and ``resnet_simple`` take 32×32 colour images, ``transformer_small`` sentences
    over a thousand words. No such data is part of this package, so these three carry initial
    weights from a fixed seed; their trained relatives are the registry's ``cnn``, ``resnet`` and
    ``transformer``.

    Returns:
        The five models in eval mode. Every call returns equal, new ones.

    Example:
        >>> sorted(create_sample_models())
        ['cnn_simple', 'mlp_large', 'mlp_small', 'resnet_simple', 'transformer_small']
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which is not safe beside a torch.export in another thread.
        torch.default_generator.manual_seed(0)
        models: dict[str, nn.Module] = {
            "mlp_small": _enlarge_input(load_model("mlp")),
            "mlp_large": _enlarge_input(load_model("mlp_wide")),
            "cnn_simple": SimpleCNN(3, 10),
            "resnet_simple": SimpleResNet(3, 10),
            "transformer_small": _build_transformer(),
        }
    return {name: model.eval() for name, model in models.items()}


def generate_sample_data(model_type: str, batch_size: int = 32, *, seed: int = 0) -> torch.Tensor:
    """Return a batch of inputs for one kind of model.

    Images are real digits of the test split, enlarged; token ids are random.

    Args:
        model_type: ``"mlp"`` for 784 numbers, ``"cnn"`` for 32×32 images of three channels, or
            ``"transformer"`` for sentences of 100 token ids below 1000.
        batch_size: Samples.
        seed: Chooses the samples; the same seed gives the same batch.

    Returns:
        Shape (batch_size, 784) or (batch_size, 3, 32, 32), float32 in [0, 1]; or
        (batch_size, 100), int64.

    Raises:
        UnknownNameError: If there is no such kind.
        SampleModelError: If the batch size is below 1.

    Example:
        >>> generate_sample_data("cnn", 4).shape
        torch.Size([4, 3, 32, 32])
    """
    if model_type not in _KINDS:
        raise unknown_name("kind of model", model_type, _KINDS)
    if batch_size < 1:
        raise SampleModelError(f"batch_size must be at least 1, got {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    if model_type == "transformer":
        return torch.randint(_VOCABULARY, (batch_size, _SENTENCE), generator=generator)
    pixels, _ = load_pixels("test")
    images = as_images(pixels[torch.randint(len(pixels), (batch_size,), generator=generator)])
    if model_type == "mlp":
        return F.interpolate(images, size=_SIDE, mode="nearest").flatten(1)
    return F.interpolate(images, size=32, mode="nearest").repeat(1, 3, 1, 1)


def _enlarge_input(model: nn.Module) -> SimpleMLPClassifier:
    """Let an 8×8 perceptron take 28×28 images, by shrinking them inside its first layer.

    Shrinking is linear, so W · (S · x) = (W · S) · x.
    """
    assert isinstance(model, SimpleMLPClassifier)
    linears = [layer for layer in model.network if isinstance(layer, nn.Linear)]
    hidden_sizes = [layer.out_features for layer in linears[:-1]]
    larger = SimpleMLPClassifier(_SIDE**2, hidden_sizes, model.num_classes)
    state = model.state_dict()
    state["network.0.weight"] = state["network.0.weight"] @ _shrinking_matrix()
    larger.load_state_dict(state)
    return larger


def _shrinking_matrix() -> torch.Tensor:
    """Return the map that averages each patch of a 28×28 image that one of 8×8 pixels fills."""
    enlarged = F.interpolate(
        torch.eye(IMAGE_SIZE**2).view(-1, 1, IMAGE_SIZE, IMAGE_SIZE), size=_SIDE, mode="nearest"
    ).flatten(1)
    return enlarged / enlarged.sum(dim=1, keepdim=True)


def _build_mlp(
    input_size: int = _SIDE**2,
    hidden_sizes: tuple[int, ...] = (128, 64),
    num_classes: int = 10,
    dropout_rate: float = 0.2,
) -> SimpleMLPClassifier:
    return SimpleMLPClassifier(input_size, hidden_sizes, num_classes, dropout_rate)


def _build_transformer(
    vocab_size: int = _VOCABULARY,
    embed_dim: int = 128,
    num_heads: int = 4,
    num_layers: int = 2,
    ff_dim: int = 256,
    max_seq_len: int = _SENTENCE,
    num_classes: int = 10,
    dropout: float = 0.1,
) -> SimpleTransformer:
    return SimpleTransformer(
        vocab_size, embed_dim, num_heads, num_layers, ff_dim, max_seq_len, num_classes, dropout
    )


_ARCHITECTURES: Final[dict[str, Callable[..., nn.Module]]] = {
    "cnn": SimpleCNN,
    "mlp": _build_mlp,
    "resnet": SimpleResNet,
    "transformer": _build_transformer,
}
