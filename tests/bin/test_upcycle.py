"""espnet_moe_share.bin.upcycle: from a dense checkpoint to a file for ESPnet's --init_param."""

from pathlib import Path

import pytest
import tiny_models
import torch
import yaml
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_moe_share.bin.upcycle import main
from espnet_moe_share.task import ASRTask

TRAINING = ("frontend_conf", "encoder", "encoder_conf", "decoder", "decoder_conf", "model")


def start(dense: dict[str, str], folder: Path, settings: dict, *options: str) -> Path:  # type: ignore[type-arg]
    settings = {key: settings[key] for key in (*TRAINING, "model_conf")}
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    files = ["--asr_train_config", dense["teacher_config"]]
    files += ["--asr_model_file", dense["teacher_model_file"]]
    files += ["--config", str(folder / "train.yaml"), "--output", str(folder / "new/init.pth")]
    main([*files, *options])
    return folder / "new/init.pth"


def test_file_makes_espnets_model_the_dense_one(
    tmp_path: Path, teacher: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_models.config(
        encoder_conf={"experts": {"top_k": 4}, "sharing": None}, model_conf={"balance_weight": 0.0}
    )
    file = start(teacher, tmp_path, settings, "--noise", "0")
    dense, args = ASRTask.build_model_from_file(*teacher.values())
    args.encoder, args.model = "moe_share_conformer", "moe_share"
    args.encoder_conf = settings["encoder_conf"]
    model = ASRTask.build_model(args)
    load_pretrained_model(str(file), model, ignore_init_mismatch=False)
    batch = tiny_models.batch()
    losses = [one.eval()(**batch)[0].item() for one in (model, dense)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    *lines, last = capsys.readouterr().out.splitlines()
    assert f"{file}: " in last and "of the dense model's" in last
    sources = {line.split()[0]: line.split("  ")[-1].strip() for line in lines}
    assert sources.keys() == torch.load(file).keys()
    assert sources["decoder.decoders.0.self_attn.linear_q.weight"] == "the dense model's"
    assert sources["encoder.encoders.2.norm_ff.weight"] == "layer 2"


def test_shared_experts_of_different_layers_and_an_embedding_network(
    tmp_path: Path, teacher: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_models.speechmoe_config(encoder_conf={"sharing": tiny_models.SHARING})
    options = ["--experts", "layers", "--shared", "-1", "--router_std", "0.5"]
    state = torch.load(start(teacher, tmp_path, settings, *options))
    out = capsys.readouterr().out
    sources = {line.split()[0]: line.split("  ")[-1].strip() for line in out.splitlines()}
    assert sources["encoder.encoders.2-3.self_attn.linear_q.weight"] == "layer 3"
    source = sources["encoder.encoders.2-3.feed_forward.experts.w_2"]
    assert source == (
        "of its experts: layers 2, 2, 3, 3, with noise of 0.01 of its standard deviation, times 4"
    )
    network = [key for key in state if key.startswith("encoder.embedding_network.")]
    assert network and all(sources[key] == "new, random" for key in network)
    dense = torch.load(teacher["teacher_model_file"])
    expert = state["encoder.encoders.2-3.feed_forward.experts.w_1"][3]
    origin = dense["encoder.encoders.3.feed_forward.w_1.weight"]
    assert 0 < (expert - origin).norm() < 0.03 * origin.norm()


def test_refusals(
    tmp_path: Path, teacher: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def message(*options: str, **changes: object) -> str:
        with pytest.raises(SystemExit) as refused:
            start(teacher, tmp_path, tiny_models.config(**changes), *options)
        assert not list(tmp_path.glob("new/*"))
        text = str(refused.value.code)
        assert text.startswith("upcycle: error: ") and "\n" not in text
        return text

    assert "there is no place 2 among these 2" in message("--shared", "2")
    assert "has no experts to start" in message(encoder_conf={"experts": None, "sharing": None})
    text = message(decoder_conf={"num_blocks": 2})
    assert "'decoder.decoders.1." in text and "is missing in the dense model" in text
    with pytest.raises(SystemExit):
        start(teacher, tmp_path, tiny_models.config(), "--noise", "-1")
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("--noise: -1: a number of 0 or more is needed")
