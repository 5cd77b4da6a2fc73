"""What an analysis found: frozen, already reduced, plain numbers.

A report is the one contract between the engine and everything that shows its results. It holds no
tensors: histograms, quantiles and sums only, so a figure is a pure function of it. Reports
round-trip through JSON exactly. Only what a report may truly lack has a default; `SCHEMA_VERSION`
changes whenever a field is added, is taken away or means something else.
"""

from quant_engine.report.coverage import Coverage, LeftOut
from quant_engine.report.layers import EXCLUDED, QUANTIZED, UNSUPPORTED, LayerReport, LayerSize
from quant_engine.report.model import TIMES_FOLLOW, Answers, ModelReport, OutputReport, SizeReport
from quant_engine.report.remedies import Treatment
from quant_engine.report.response import (
    GOOD,
    ROUGH,
    AgreementFigures,
    AgreementPoint,
    ConfigurationScore,
    ConfigurationSize,
    OutputScore,
    ResponseAgreement,
    ResponseLayer,
    ResponseOption,
    ResponseOutput,
    ResponseReport,
    StoredTensor,
    TrustRegion,
)
from quant_engine.report.search import ConfigurationPoint, FrontierReport
from quant_engine.report.sensitivity import (
    CumulativePoint,
    LayerSensitivity,
    NeighbourComparison,
    OutputEffect,
    Ranking,
    SensitivityReport,
)
from quant_engine.report.serialization import SCHEMA_VERSION, decode, encode
from quant_engine.report.tensors import (
    ChannelRanges,
    CodeUsage,
    ErrorHistogram,
    ErrorMetrics,
    InputChannels,
    RangeChoice,
    RelativeErrors,
    TensorReport,
    ValueHistogram,
    WorkedExample,
)
from quant_engine.report.timing import (
    NOT_COMPARED,
    Environment,
    ExecutionGap,
    LayerExecution,
    ThreadTrial,
    TimingEntry,
    TimingReport,
)

__all__ = [
    "EXCLUDED",
    "GOOD",
    "NOT_COMPARED",
    "QUANTIZED",
    "ROUGH",
    "SCHEMA_VERSION",
    "TIMES_FOLLOW",
    "UNSUPPORTED",
    "AgreementFigures",
    "AgreementPoint",
    "Answers",
    "ChannelRanges",
    "CodeUsage",
    "ConfigurationPoint",
    "ConfigurationScore",
    "ConfigurationSize",
    "Coverage",
    "CumulativePoint",
    "Environment",
    "ErrorHistogram",
    "ErrorMetrics",
    "ExecutionGap",
    "FrontierReport",
    "InputChannels",
    "LayerExecution",
    "LayerReport",
    "LayerSensitivity",
    "LayerSize",
    "LeftOut",
    "ModelReport",
    "NeighbourComparison",
    "OutputEffect",
    "OutputReport",
    "OutputScore",
    "RangeChoice",
    "Ranking",
    "RelativeErrors",
    "ResponseAgreement",
    "ResponseLayer",
    "ResponseOption",
    "ResponseOutput",
    "ResponseReport",
    "SensitivityReport",
    "SizeReport",
    "StoredTensor",
    "TensorReport",
    "ThreadTrial",
    "TimingEntry",
    "TimingReport",
    "Treatment",
    "TrustRegion",
    "ValueHistogram",
    "WorkedExample",
    "decode",
    "encode",
]
