"""An int8 quantization engine for PyTorch: quantize, measure what it did, decide what to change.

Start with `analyze(model, calibration_data, recipe)`. See `docs/architecture.md` for the picture.
"""

from quant_engine.analysis.analysis import analyze
from quant_engine.analysis.quick_looks import (
    analyze_tensor_distribution,
    compare_models,
    load_quantization_config,
    print_quantization_summary,
    save_quantization_config,
)
from quant_engine.analysis.times import measure_times
from quant_engine.errors import (
    BudgetError,
    DataError,
    ModelForwardError,
    NotCalibratedError,
    QuantizationError,
    SchemeError,
    StorageError,
    UnsupportedLayerError,
    WorkerError,
)
from quant_engine.execution.clock import benchmark_inference
from quant_engine.execution.convert import convert_execution, execution_notes, list_executions
from quant_engine.judging.output import Output
from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConvTranspose2d,
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedLinear,
)
from quant_engine.metrics.catalogue import METRICS, Metric
from quant_engine.metrics.functions import calculate_quantization_error
from quant_engine.quantization.calibration import Calibration, calibrate
from quant_engine.quantization.quantize import quantize_model
from quant_engine.quantization.size import calculate_model_size
from quant_engine.quantization.storage import load_quantized_model, save_quantized_model
from quant_engine.report import (
    ConfigurationPoint,
    ConfigurationScore,
    FrontierReport,
    LayerReport,
    ModelReport,
    SensitivityReport,
)
from quant_engine.response.logit_response import LogitResponse
from quant_engine.scheme import (
    PRESETS,
    Awq,
    BiasCorrection,
    Candidate,
    CrossLayerEqualization,
    Gptq,
    LayerScheme,
    OutputMse,
    Recipe,
    SmoothQuant,
    TensorScheme,
)
from quant_engine.search.search import pareto_frontier, search_configuration
from quant_engine.search.verification import search_measured, verify_configurations, verify_frontier
from quant_engine.sensitivity.measure import measure_sensitivity
from quant_engine.tensors.affine import QParams, choose_qparams, dequantize, fake_quantize, quantize
from quant_engine.tensors.quantizer import Int8Quantizer
from quant_engine.variants.options import bit_options, in_groups, treated

__all__ = [
    "METRICS",
    "PRESETS",
    "Awq",
    "BiasCorrection",
    "BudgetError",
    "Calibration",
    "Candidate",
    "ConfigurationPoint",
    "ConfigurationScore",
    "CrossLayerEqualization",
    "DataError",
    "FrontierReport",
    "Gptq",
    "Int8Quantizer",
    "LayerReport",
    "LayerScheme",
    "LogitResponse",
    "Metric",
    "ModelForwardError",
    "ModelReport",
    "NotCalibratedError",
    "Output",
    "OutputMse",
    "QParams",
    "QuantizationError",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConvTranspose2d",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "Recipe",
    "SchemeError",
    "SensitivityReport",
    "SmoothQuant",
    "StorageError",
    "TensorScheme",
    "UnsupportedLayerError",
    "WorkerError",
    "analyze",
    "analyze_tensor_distribution",
    "benchmark_inference",
    "bit_options",
    "calculate_model_size",
    "calculate_quantization_error",
    "calibrate",
    "choose_qparams",
    "compare_models",
    "convert_execution",
    "dequantize",
    "execution_notes",
    "fake_quantize",
    "in_groups",
    "list_executions",
    "load_quantization_config",
    "load_quantized_model",
    "measure_sensitivity",
    "measure_times",
    "pareto_frontier",
    "print_quantization_summary",
    "quantize",
    "quantize_model",
    "save_quantization_config",
    "save_quantized_model",
    "search_configuration",
    "search_measured",
    "treated",
    "verify_configurations",
    "verify_frontier",
]
