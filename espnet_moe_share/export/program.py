"""From the module to the files: a program of torch.export, an ONNX graph."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import onnx
import onnx_ir
import torch
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import pattern, rewrite

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.export.ctc_encoder import CTCEncoder

OPSET = 18
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes which module a node is of
_ANY_SIZE = 1 << 40


def _gemm(op: Any, x: Any, weight: Any) -> Any:
    return op.Gemm(x, weight, transB=1, _allow_other_attributes=True)


def _product(op: Any, x: Any, weight: Any) -> Any:
    return op.MatMul(x, op.Transpose(weight, perm=[1, 0]))


def _gemm_with_bias(op: Any, x: Any, weight: Any, bias: Any) -> Any:
    return op.Gemm(x, weight, bias, transB=1, _allow_other_attributes=True)


def _product_with_bias(op: Any, x: Any, weight: Any, bias: Any) -> Any:
    return op.Add(_product(op, x, weight), bias)


_LINEAR_LAYERS = (
    pattern.RewriteRule(_gemm, _product),
    pattern.RewriteRule(_gemm_with_bias, _product_with_bias),
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporters say about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def export_program(module: CTCEncoder, min_samples: int) -> torch.export.ExportedProgram:
    """Trace the module for utterances of any length.

    Expert layers are traced with all their experts (``torch.compiler.is_exporting()``).

    Args:
        module: In evaluation mode.
        min_samples: Length of the shortest utterance.

    Raises:
        ConfigurationError: Something in the encoder depends on the data.
    """
    # an example of no special length, and short: it is stored with the program
    example = torch.randn(1, 4 * min_samples + 7, generator=torch.Generator().manual_seed(0))
    samples = torch.export.Dim("samples", min=min_samples)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(
                module,
                (0.1 * example,),
                dynamic_shapes={"speech": {1: samples}},
                # ESPnet's reshapes need divisibility that holds for every length but that the
                # tracer cannot prove
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigurationError(
            f"torch.export cannot trace the encoder {type(module.encoder).__name__}: {reason}"
        ) from error


def save_program(program: torch.export.ExportedProgram, file: IO[bytes]) -> None:
    """Write a program without the traces of which line of whose code made each of its nodes.

    Args:
        program: From :func:`export_program`; it loses these traces.
        file: Opened for writing.
    """
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    with _quiet():
        torch.export.save(program, file)


def export_onnx(program: torch.export.ExportedProgram, metadata: dict[str, str]) -> onnx.ModelProto:
    """Make an ONNX graph in which every tensor of the model is stored once.

    Args:
        program: From :func:`export_program`.
        metadata: Kept in the file for whoever runs it.

    Returns:
        A graph ``speech`` (1, samples) -> ``encoder_out`` (1, frames, D), ``log_probs``
        (1, frames, V). Names of nodes begin with the path of their module.
    """
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["speech"],
            output_names=["encoder_out", "log_probs"],
            verbose=False,
        )
    assert exported is not None
    model = exported.model
    # Linear layers and experts come as a parameter that is transposed and reshaped at run time.
    # Done here, the graph multiplies by stored matrices, which is what quantisation looks for.
    # (It would split a Gemm, too, but transpose a shared weight once for each layer.)
    with _quiet():
        rewrite(model, pattern_rewrite_rules=_LINEAR_LAYERS)
        fold_constants(model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    for number, node in enumerate(model.graph):
        node.name = f"{_module_path(node)}/{node.op_type}_{number}"
    proto = smallest(model)
    proto.producer_name = "espnet_moe_share"
    onnx.helper.set_model_props(proto, metadata)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "samples"
    for output in proto.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "frames"
    return proto


def smallest(model: Any) -> onnx.ModelProto:
    """Drop what is not used, stored twice, or there for debugging only."""
    for rule in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateInitializersPass(size_limit=_ANY_SIZE),
        passes.ClearMetadataAndDocStringPass(),
    ):
        rule(model)
    proto = onnx_ir.to_proto(model)
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    return proto


def _module_path(node: onnx_ir.Node) -> str:
    """Path of the module in whose forward the node is."""
    scopes = node.metadata_props.get(_SCOPES, "[]")
    # a list as Python writes it: '', 'encoder', 'encoder.embed', ..., the name of the operation
    names = [name.strip(" '\"") for name in scopes.strip("[]").split(",")]
    return names[-2] if len(names) > 1 else ""
