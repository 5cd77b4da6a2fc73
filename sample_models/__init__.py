"""Small trained models on real handwritten digits, to try quantization on.

This package knows nothing of quantization: it hands out trained float models and real data.

Example:
    >>> import sample_models
    >>> model = sample_models.load_model("resnet")
    >>> inputs, labels = sample_models.get_model_info("resnet").load_inputs("calibration")
    >>> inputs.shape
    torch.Size([200, 1, 8, 8])
"""

from __future__ import annotations

from sample_models.cnn import SimpleCNN
from sample_models.data import DigitsData, load_digits, load_split
from sample_models.errors import SampleModelError, UnknownNameError, WeightsError
from sample_models.factory import ModelFactory, create_sample_models, generate_sample_data
from sample_models.mlp import SimpleMLPClassifier
from sample_models.registry import (
    SampleModel,
    get_model_info,
    list_models,
    load_model,
    register_model,
)
from sample_models.resnet import SimpleResNet
from sample_models.transformer import SimpleTransformer

__all__ = [
    "DigitsData",
    "ModelFactory",
    "SampleModel",
    "SampleModelError",
    "SimpleCNN",
    "SimpleMLPClassifier",
    "SimpleResNet",
    "SimpleTransformer",
    "UnknownNameError",
    "WeightsError",
    "create_sample_models",
    "generate_sample_data",
    "get_model_info",
    "list_models",
    "load_digits",
    "load_model",
    "load_split",
    "register_model",
]
