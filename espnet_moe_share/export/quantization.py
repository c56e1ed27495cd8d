"""Dynamic int8 quantisation of an exported graph by onnxruntime.

Weights of matrix products and convolutions become int8 (uint8), their inputs are quantised by their
range while the graph runs. What stays float32, and why:

* the features: a power spectrum spans more orders of magnitude than 8 bits;
* the routers: rounding would change which experts a frame gets;
* depthwise convolutions: a hundredth of the weights, with one short filter a channel.
"""

import logging
from pathlib import Path

import onnx
import onnx_ir
from onnxruntime.quantization import QuantType, quantize_dynamic

from espnet_moe_share.export.program import smallest

_FLOAT = ("features", ".router")


def _stays_float(node: onnx.NodeProto) -> bool:
    path = node.name.partition("/")[0]
    if path.startswith(_FLOAT[0]) or path.endswith(_FLOAT[1]):
        return True
    groups = next((one.i for one in node.attribute if one.name == "group"), 1)
    return node.op_type == "Conv" and groups > 1


def quantize(model: onnx.ModelProto, file: Path) -> None:
    """Quantise a graph of :func:`espnet_moe_share.export.program.export_onnx`.

    Args:
        model: Left as it is.
        file: To write to.
    """
    excluded = [node.name for node in model.graph.node if _stays_float(node)]
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # recommends a preparation that would duplicate shared weights
    try:
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul", "Conv"],
            # ConvInteger of onnxruntime's CPU provider takes unsigned weights only
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=excluded,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    finally:
        logger.setLevel(level)
    quantized = smallest(onnx_ir.from_proto(onnx.load(file)))
    quantized.metadata_props.extend(model.metadata_props)
    onnx.save(quantized, file)
