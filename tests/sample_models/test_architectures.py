"""The network classes: any size they allow, and the structure they promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sample_models import SimpleCNN, SimpleMLPClassifier, SimpleResNet, SimpleTransformer
from sample_models.mobilenet import InvertedResidual, MobileNet, Stage
from sample_models.resnet import ResidualBlock
from sample_models.transformer import sine_positions
from sample_models.vit import VisionTransformer


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_mlp_has_the_layers_it_is_given() -> None:
    model = SimpleMLPClassifier(784, [128, 64], 10)
    assert [type(layer).__name__ for layer in model.network] == [
        *("Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"),
    ]
    assert (model.input_size, model.num_classes) == (784, 10)
    assert count(model) == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert model.network[2].p == 0.2


def test_mlp_flattens_and_may_have_no_hidden_layer() -> None:
    model = SimpleMLPClassifier(64, [], 3, dropout_rate=0.0).eval()
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(model(images), model(images.flatten(1)))
    assert model(images).shape == (5, 3)


@pytest.mark.parametrize(
    ("channels", "classes", "size"), [(3, 10, 32), (1, 10, 28), (1, 10, 8), (3, 7, 64), (2, 4, 9)]
)
def test_cnn_takes_any_size_from_eight(channels: int, classes: int, size: int) -> None:
    model = SimpleCNN(channels, classes, image_size=size)
    assert model(torch.rand(2, channels, size, size)).shape == (2, classes)


def test_cnn_defaults_are_32_by_32_in_colour() -> None:
    model = SimpleCNN()
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert model.classifier[0].in_features == 128 * 4 * 4


def test_cnn_refuses_images_it_would_pool_away() -> None:
    with pytest.raises(ValueError, match="at least 8, got 7"):
        SimpleCNN(1, 10, image_size=7)


@pytest.mark.parametrize("size", [8, 28, 32])
def test_resnet_takes_any_size(size: int) -> None:
    assert SimpleResNet(3, 5, widths=(4, 8, 16))(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_resnet_defaults() -> None:
    model = SimpleResNet()
    assert model.conv1.in_channels == 3
    assert (model.fc.in_features, model.fc.out_features) == (256, 10)
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 6
    assert [len(block.shortcut) for block in blocks] == [0, 0, 2, 0, 2, 0]


def test_residual_block_adds_its_input() -> None:
    block = ResidualBlock(4, 4).eval()
    x = torch.randn(2, 4, 5, 5)
    main = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.equal(block(x), (main + x).relu())
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("length", [1, 64, 100])
def test_transformer_takes_sentences_up_to_its_length(length: int) -> None:
    model = SimpleTransformer(1000, 32, 4, 2, 64, max_seq_len=100, num_classes=6)
    assert model(torch.randint(1000, (3, length))).shape == (3, 6)


def test_transformer_sees_order() -> None:
    model = SimpleTransformer(20, 16, 2, 1, 32, 10, 4).eval()
    sentence = torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        assert not torch.allclose(model(sentence), model(sentence.flip(1)), atol=1e-4)


def test_sine_positions_are_distinct_and_smooth() -> None:
    table = sine_positions(8, 8, 48)
    assert table.shape == (64, 48)
    distance = torch.cdist(table, table)
    assert distance[~torch.eye(64, dtype=torch.bool)].min() > 0.1
    # The row's half agrees along a row, the column's half along a column.
    assert torch.equal(table[0, :24], table[7, :24])
    assert torch.equal(table[0, 24:], table[56, 24:])
    assert distance[0, 1] < distance[0, 2]


def test_inverted_residual_adds_only_equal_shapes() -> None:
    assert InvertedResidual(8, Stage(2, 8, 1)).is_residual
    assert not InvertedResidual(8, Stage(2, 8, 2)).is_residual
    assert not InvertedResidual(8, Stage(2, 12, 1)).is_residual
    block = InvertedResidual(8, Stage(2, 8, 1)).eval()
    nn.init.zeros_(block.project.weight)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_mobilenet_filters_each_channel_alone() -> None:
    model = MobileNet(1, 10, 8, [Stage(2, 8, 1), Stage(3, 12, 2)], 20)
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [layer.groups for layer in depthwise] == [1, 16, 24]


def test_vit_cuts_whole_patches() -> None:
    model = VisionTransformer(32, 8, 3, 5, 16, 2, 1, 32)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert model.pos_embedding.shape == (16, 16)
    with pytest.raises(ValueError, match="patch_size must divide image_size, got 3 and 8"):
        VisionTransformer(8, 3, 1, 5, 16, 2, 1, 32)
