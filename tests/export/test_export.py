"""A student exported by the command, run by onnxruntime, and by the recogniser without PyTorch."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import tiny_models
import torch
from onnx import numpy_helper

from espnet_moe_share.bin import export, recognize_onnx
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.export.ctc_encoder import CTCEncoder
from espnet_moe_share.export.program import export_program

SIZE, EXPERTS = 8, 4
# of two dimensions or more, but not quantised, or not worth it
NO_WEIGHTS = ("experts.b_", "pos_bias_", "melmat", "depthwise")
TOO_SHORT = 500
LENGTHS = (5000, 5127, 9000, 12345, 16000, 40000)


def noise(samples: int) -> torch.Tensor:
    """Noise that comes and goes, so that frames differ."""
    generator = torch.Generator().manual_seed(samples)
    loudness = torch.exp(6 * torch.sin(torch.arange(samples) / 3000))
    return 0.0005 * loudness * torch.randn(1, samples, generator=generator)


def decided(model: Any) -> Any:
    """Every expert is somebody's choice, and not all frames say the same token."""
    model = tiny_models.randomize(model).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, MixtureOfExperts):
                module.router.weight.normal_(std=3.0, generator=generator)
        model.ctc.ctc_lo.weight.mul_(5.0)
    return model


def log_probs(model: Any, speech: torch.Tensor) -> torch.Tensor:
    """ESPnet's own way, (1, T, V)."""
    with torch.no_grad():
        output = model.encode(speech, torch.tensor([speech.size(1)]))[0]
        return model.ctc.log_softmax(output[0] if isinstance(output, tuple) else output)


def model_of(name: str, **changes: Any) -> Any:
    settings = tiny_models.encoder_config(f"moe_share_{name}", **changes)
    return tiny_models.randomize(tiny_models.build(settings)).eval()


class Exported:
    """A model, and the files that the command made of it."""

    def __init__(self, folder: Path, stats: str) -> None:
        changes = {
            "encoder_conf": {
                "num_blocks": 2,
                "sharing": [{"modules": ["*"], "except": ["*norm*", "*.router"], "groups": 1}],
            },
            "normalize": "global_mvn",
        }
        settings = tiny_models.config(**changes)
        settings["normalize_conf"] = {"stats_file": stats}
        self.folder = folder
        self.model = decided(tiny_models.build(settings))
        self.source = tiny_models.save(folder, settings, self.model)
        for samples in (*LENGTHS, TOO_SHORT):
            soundfile.write(folder / f"{samples}.wav", noise(samples)[0].numpy(), 16000, "FLOAT")
        self.wav_scp = folder / "wav.scp"
        self.wav_scp.write_text("".join(f"u{n} {folder}/{n}.wav\n" for n in LENGTHS))
        self.arguments = ["--asr_train_config", self.source["teacher_config"]]
        self.arguments += ["--asr_model_file", self.source["teacher_model_file"]]
        self.arguments += ["--output_dir", str(folder / "new/export")]
        with_short = folder / "with_short.scp"
        short = f"short {folder}/{TOO_SHORT}.wav\n"
        with_short.write_text(self.wav_scp.read_text() + short)
        with redirect_stdout(StringIO()) as report:
            export.main([*self.arguments, "--wav_scp", str(with_short)])
        self.report = report.getvalue()

    def file(self, name: str) -> Path:
        return self.folder / "new/export" / name

    def graph(self, name: str) -> onnx.GraphProto:
        return onnx.load(self.file(name)).graph

    def run(self, name: str, speech: torch.Tensor) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(self.file(name))
        return session.run(None, {"speech": speech.numpy()})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, teacher: dict[str, str]) -> Exported:
    stats = str(Path(teacher["teacher_config"]).with_name("feats_stats.npz"))
    return Exported(tmp_path_factory.mktemp("export"), stats)


def test_float_graph_is_espnets_model_at_any_length(exported: Exported) -> None:
    names = sorted(path.name for path in exported.file("").iterdir())
    assert names == ["ctc.onnx", "ctc.pt2", "ctc_int8.onnx"]
    same = r"    6 utterances, 1 too short: log-probabilities differ by \d+e-0\d at most, the best "
    same += "token in 0 of"
    assert len(re.findall(same, exported.report.replace(".", ""))) == 2, exported.report
    assert f"ctc_int8.onnx: ONNX int8, {exported.file(names[2]).stat().st_size} bytes, " in (
        exported.report
    )
    program = torch.export.load(exported.file("ctc.pt2")).module()
    shortest = recognize_onnx.Recognizer(exported.file("ctc.onnx")).min_samples
    chosen = Counter[int]()
    for samples in (shortest, *LENGTHS):
        speech = noise(samples)
        with record_routing(exported.model.encoder) as records:
            wanted = log_probs(exported.model, speech)
        for calls in records.values():
            chosen.update(calls[0].expert_ids_NK.flatten().tolist())
        encoder_out, found = exported.run("ctc.onnx", speech)
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
        assert encoder_out.shape == (1, wanted.size(1), SIZE)
        torch.testing.assert_close(program(speech)[1], wanted, atol=1e-4, rtol=0)
    # so that what is equal was computed by every one of them
    assert len(chosen) == EXPERTS
    assert (
        recognize_onnx.Recognizer(exported.file("ctc.onnx"))(noise(shortest - 1)[0].numpy()) == ""
    )


def arrays(graph: onnx.GraphProto, data_type: int) -> list[np.ndarray]:
    return [numpy_helper.to_array(x) for x in graph.initializer if x.data_type == data_type]


def test_each_shared_tensor_is_in_the_file_once(exported: Exported) -> None:
    floats = arrays(exported.graph("ctc.onnx"), onnx.TensorProto.FLOAT)
    assert len({(array.shape, array.tobytes()) for array in floats}) == len(floats)
    module = CTCEncoder(exported.model)
    tensors = [*module.parameters(), *module.buffers()]
    wanted = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    window, scalars = 256, 20
    assert wanted < sum(array.size for array in floats) <= wanted + window + scalars


def test_int8_graph_covers_experts_but_not_routers(exported: Exported) -> None:
    graph = exported.graph("ctc_int8.onnx")
    module = CTCEncoder(exported.model)
    small, routers, large = 0, 0, 0
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if path.endswith("router.weight"):
            routers += tensor.numel()
        elif tensor.dim() < 2 or any(name in path for name in NO_WEIGHTS):
            small += tensor.numel()
        else:
            large += tensor.numel()
    layer = exported.model.encoder.encoders[0].feed_forward
    of_experts = layer.experts.w_1.numel() + layer.experts.w_2.numel()
    assert of_experts > 0.2 * large
    quantized = sum(a.size for a in arrays(graph, onnx.TensorProto.UINT8) if a.ndim >= 2)
    floats = arrays(graph, onnx.TensorProto.FLOAT)
    assert large <= quantized < large + 0.1 * of_experts  # each shared one once
    window, scales = 256, 50
    assert sum(a.size for a in floats) < small + routers + window + scales
    assert sum(a.shape == (SIZE, EXPERTS) for a in floats) == 2
    speech = noise(40000)
    found = exported.run("ctc_int8.onnx", speech)[1]
    wanted = log_probs(exported.model, speech).numpy()
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(wanted).mean()


def greedy(model: Any, speech: torch.Tensor) -> str:
    best = torch.unique_consecutive(log_probs(model, speech)[0].argmax(-1)).tolist()
    return "".join(tiny_models.TOKENS[token] for token in best if token != 0)


def test_recogniser_without_torch_and_espnet(exported: Exported, tmp_path: Path) -> None:
    shutil.copy(recognize_onnx.__file__, tmp_path)
    texts = {f"u{n}": greedy(exported.model, noise(n)) for n in LENGTHS}
    assert len(set(texts.values())) > 1
    wrong = {name: text + "aa" * (name == "u9000") for name, text in texts.items()}
    (tmp_path / "ref").write_text("".join(f"{name} {text}\n" for name, text in wrong.items()))
    code = (
        "import sys, runpy; sys.modules.update(torch=None, espnet2=None, espnet_moe_share=None); "
    )
    code += "runpy.run_path('recognize_onnx.py', run_name='__main__')"
    command = ["--model_file", str(exported.file("ctc.onnx")), "--wav_scp", str(exported.wav_scp)]
    command += ["--output", "hyp", "--ref", "ref"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    hypotheses = dict(line.split(" ", 1) for line in (tmp_path / "hyp").read_text().splitlines())
    assert hypotheses == texts
    characters = sum(map(len, wrong.values()))
    assert f"CER {200 / characters:.2f} % (2 of {characters}, " in done.stdout
    assert "real-time factor 0." in done.stdout and "peak memory " in done.stdout


def test_recogniser_refuses(exported: Exported, tmp_path: Path) -> None:
    def message(model: Path, line: str = f"u9000 {exported.folder}/9000.wav") -> str:
        (tmp_path / "wav.scp").write_text(f"{line}\n" * bool(line))
        files = ["--model_file", str(model), "--wav_scp", str(tmp_path / "wav.scp")]
        with pytest.raises(SystemExit) as refused:
            recognize_onnx.main([*files, "--output", str(tmp_path / "hyp")])
        assert not (tmp_path / "hyp").exists()
        text = str(refused.value.code)
        assert text.startswith("recognize_onnx: error: ") and "\n" not in text
        return text

    model = exported.file("ctc.onnx")
    assert "no recordings in it" in message(model, "")
    assert "none.wav: unreadable audio" in message(model, "u none.wav")
    soundfile.write(tmp_path / "8k.wav", np.zeros(8000), 8000)
    assert "8000 Hz and 1 channels; the model was trained with 16000" in message(
        model, f"u {tmp_path}/8k.wav"
    )
    assert "none.onnx" in message(tmp_path / "none.onnx")
    graph = onnx.load(model)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "other.onnx")
    assert "no file of espnet_moe_share.bin.export" in message(tmp_path / "other.onnx")


@pytest.mark.parametrize("name", ["transformer", "e_branchformer"])
def test_other_encoders_by_torch_export(name: str) -> None:
    model = model_of(name, encoder_conf={"num_blocks": 1, "sharing": None})
    module = CTCEncoder(model)
    program = export_program(module, module.min_samples()).module()
    for samples in LENGTHS:
        speech = noise(samples)
        torch.testing.assert_close(program(speech)[1], log_probs(model, speech), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize_conf": {"norm_means": True, "norm_vars": False}},
        {"normalize_conf": {"norm_means": False, "norm_vars": True}},
        {"normalize": None, "normalize_conf": {}},
        {"encoder_conf": {"rel_pos_type": "legacy", "interctc_layer_idx": [1]}},
        {"encoder_conf": {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"}},
        {
            "encoder_conf": {"interctc_layer_idx": [1], "interctc_use_conditioning": True},
            "model_conf": {"interctc_weight": 0.5},
        },
    ],
)
def test_module_is_espnets_model(changes: dict[str, Any]) -> None:
    model = model_of("conformer", **changes)
    for samples in (5000, 30000):
        with torch.no_grad():
            found = CTCEncoder(model)(noise(samples))[1]
        torch.testing.assert_close(found, log_probs(model, noise(samples)), atol=1e-4, rtol=0)


class Layer(torch.nn.Module):
    """An expert layer with all that it is told beside its input."""

    def __init__(self, top_k: int) -> None:
        super().__init__()
        self.experts = MixtureOfExperts(
            *(6, 10, torch.nn.Dropout(0.0), torch.nn.SiLU(), 4, top_k),
            bias_update_rate=0.1,
            embedding_size=3,
        )
        with torch.no_grad():
            self.experts.expert_bias.bias.copy_(torch.tensor([0.3, 0.0, -0.1, 0.1]))

    def forward(self, x: torch.Tensor, e: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.experts.embedding, self.experts.frame_mask = e, mask
        return self.experts(x)


@pytest.mark.parametrize("top_k", [1, 3])
def test_exported_experts_are_the_routed_ones(top_k: int) -> None:
    torch.manual_seed(0)
    layer = Layer(top_k).eval()
    inputs = (
        torch.randn(2, 9, 6),
        torch.randn(2, 9, 3),
        torch.arange(9) < torch.tensor([[[9]], [[5]]]),
    )
    program = torch.export.export(layer, inputs).module()
    torch.testing.assert_close(program(*inputs), layer(*inputs))


def test_models_that_cannot_be_exported(exported: Exported, tmp_path: Path) -> None:
    for changes, message in (
        ({"model_conf": {"ctc_weight": 0.0}}, "no CTC head"),
        ({"frontend": None, "input_size": 20}, "frontend is none; only 'frontend: default'"),
        (
            {"preencoder": "linear", "preencoder_conf": {"input_size": 20, "output_size": 20}},
            "preen",
        ),
    ):
        with pytest.raises(ConfigurationError, match=message):
            CTCEncoder(model_of("conformer", **changes))
    with pytest.raises(SystemExit, match=r"^export: error: .*none\.scp: no such file"):
        export.main([*exported.arguments, "--wav_scp", "none.scp"])


def test_missing_packages_are_named(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(SystemExit, match=r"^export: error: onnx not installed; pip install"):
        export.main(exported.arguments)
