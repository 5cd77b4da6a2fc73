"""Architectures by name, five classic models, and example data that fits them."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sample_models import (
    ModelFactory,
    SampleModelError,
    SimpleCNN,
    SimpleMLPClassifier,
    SimpleResNet,
    SimpleTransformer,
    UnknownNameError,
    create_sample_models,
    generate_sample_data,
    get_model_info,
    load_model,
    load_split,
)
from sample_models.training import count_correct

CLASSES = {
    "mlp": SimpleMLPClassifier,
    "cnn": SimpleCNN,
    "resnet": SimpleResNet,
    "transformer": SimpleTransformer,
}

KIND = {
    "mlp_small": "mlp",
    "mlp_large": "mlp",
    "cnn_simple": "cnn",
    "resnet_simple": "cnn",
    "transformer_small": "transformer",
}


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return create_sample_models()


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (SimpleMLPClassifier, ["input_size", "hidden_sizes", "num_classes", "dropout_rate"]),
        (SimpleCNN, ["input_channels", "num_classes"]),
        (SimpleResNet, ["input_channels", "num_classes"]),
        (
            SimpleTransformer,
            [
                "vocab_size",
                "embed_dim",
                "num_heads",
                "num_layers",
                "ff_dim",
                "max_seq_len",
                "num_classes",
                "dropout",
            ],
        ),
    ],
)
def test_positional_arguments_stay_as_they_are(cls: type, names: list[str]) -> None:
    parameters = inspect.signature(cls).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == names


@pytest.mark.parametrize("name", CLASSES)
def test_create_model_with_defaults(name: str) -> None:
    model = ModelFactory.create_model(name)
    assert type(model) is CLASSES[name]
    kind = "cnn" if name == "resnet" else name
    assert model(generate_sample_data(kind, 2)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"input_size": 20, "hidden_sizes": [8], "num_classes": 3, "dropout_rate": 0.0}),
        ("cnn", {"input_channels": 1, "num_classes": 3}),
        ("resnet", {"input_channels": 1, "num_classes": 3}),
        (
            "transformer",
            {
                "vocab_size": 9,
                "embed_dim": 8,
                "num_heads": 2,
                "num_layers": 1,
                "ff_dim": 16,
                "max_seq_len": 5,
                "num_classes": 3,
                "dropout": 0.0,
            },
        ),
    ],
)
def test_create_model_with_arguments(name: str, arguments: dict[str, object]) -> None:
    model = ModelFactory.create_model(name, **arguments)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert linears[-1].out_features == 3


def test_create_model_refuses_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match=r"architecture 'restnet': did you mean 'resnet'"):
        ModelFactory.create_model("restnet")
    with pytest.raises(UnknownNameError, match=r"argument of 'mlp' 'hidden_size': did you mean"):
        ModelFactory.create_model("mlp", hidden_size=[3])


def test_get_model_info_counts() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    model[0].weight.requires_grad_(False)
    assert ModelFactory.get_model_info(model) == {
        "total_parameters": 13,
        "trainable_parameters": 7,
        "layer_types": {"Sequential": 1, "Linear": 2, "ReLU": 1},
        "model_class": "Sequential",
    }


def test_five_models_of_the_classic_sizes(models: dict[str, nn.Module]) -> None:
    assert list(models) == list(KIND)
    assert [type(model) for model in models.values()] == [
        *(SimpleMLPClassifier, SimpleMLPClassifier, SimpleCNN, SimpleResNet, SimpleTransformer),
    ]
    widths = [layer.out_features for layer in models["mlp_large"].network[::3]]
    assert widths == [512, 256, 128, 10]


@pytest.mark.parametrize("name", KIND)
def test_models_take_the_generated_data(name: str, models: dict[str, nn.Module]) -> None:
    assert models[name](generate_sample_data(KIND[name], 3)).shape == (3, 10)
    assert not models[name].training


@pytest.mark.parametrize(("name", "relative"), [("mlp_small", "mlp"), ("mlp_large", "mlp_wide")])
def test_perceptrons_are_trained(name: str, relative: str, models: dict[str, nn.Module]) -> None:
    images, labels = load_split("test")
    enlarged = F.interpolate(images, size=28, mode="nearest").flatten(1)
    with torch.no_grad():
        expected = load_model(relative)(images)
        assert torch.allclose(models[name](enlarged), expected, atol=1e-4)
    correct = count_correct(models[name], enlarged, labels)
    assert correct / len(labels) == get_model_info(relative).accuracy


def test_every_call_gives_equal_models_and_leaves_the_random_state(
    models: dict[str, nn.Module],
) -> None:
    torch.manual_seed(77)
    before = torch.get_rng_state()
    again = create_sample_models()
    assert torch.equal(torch.get_rng_state(), before)
    for name, model in models.items():
        assert all(
            torch.equal(tensor, again[name].state_dict()[key])
            for key, tensor in model.state_dict().items()
        )


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("mlp", (5, 784), torch.float32),
        ("cnn", (5, 3, 32, 32), torch.float32),
        ("transformer", (5, 100), torch.int64),
    ],
)
def test_generated_data(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batch = generate_sample_data(kind, 5)
    assert (batch.shape, batch.dtype) == (shape, dtype)
    assert generate_sample_data(kind).shape[0] == 32
    assert torch.equal(batch, generate_sample_data(kind, 5))
    assert not torch.equal(batch, generate_sample_data(kind, 5, seed=1))
    limit = 999 if kind == "transformer" else 1
    assert 0 <= batch.min() <= batch.max() <= limit
    assert batch.max() >= 0.9 * limit


def test_generated_images_are_real_digits() -> None:
    batch = generate_sample_data("cnn", 4)
    images, _ = load_split("test")
    reduced = F.avg_pool2d(batch, 4)
    assert torch.equal(reduced[:, 0], reduced[:, 2])
    for image in reduced[:, :1]:
        assert (images == image).flatten(1).all(dim=1).any()


def test_generated_data_refuses_nonsense() -> None:
    with pytest.raises(UnknownNameError, match="kind of model 'rnn'"):
        generate_sample_data("rnn")
    with pytest.raises(SampleModelError, match="at least 1, got 0"):
        generate_sample_data("mlp", 0)
