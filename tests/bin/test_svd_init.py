"""espnet_moe_share.bin.svd_init, and a training by ESPnet that starts from what it writes."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_models
import torch
import yaml
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_moe_share.bin.svd_init import main
from espnet_moe_share.inference import Speech2Text
from espnet_moe_share.task import ASRTask

FULL_RANK = [{"modules": ["*"], "rank": 8}]
RANK_3 = {
    "low_rank": [{"modules": ["self_attn", "conv_module.pointwise_conv*"], "rank": 3}],
    "sharing": [
        {"modules": ["self_attn.*.up.weight"], "groups": 2},
        {"modules": ["feed_forward"], "groups": 1},
    ],
}
TRAINING = ("frontend_conf", "encoder", "encoder_conf", "decoder", "decoder_conf", "model")


def training_yaml(folder: Path, **changes: Any) -> Path:
    """The YAML of a low-rank training, without what a recipe adds on the command line."""
    settings = tiny_models.dense_config(encoder="moe_share_conformer", model="moe_share")
    settings = {key: settings[key] for key in (*TRAINING, "model_conf")}
    settings = tiny_models.merge(settings, changes)
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    return folder / "train.yaml"


def start(dense: dict[str, str], folder: Path, **changes: Any) -> Path:
    config = training_yaml(folder, **changes)
    files = ["--asr_train_config", dense["teacher_config"]]
    files += ["--asr_model_file", dense["teacher_model_file"]]
    main([*files, "--config", str(config), "--output", str(folder / "new/init.pth")])
    return folder / "new/init.pth"


def test_full_rank_file_makes_espnets_model_the_dense_one(
    tmp_path: Path, teacher: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = start(teacher, tmp_path, encoder_conf={"low_rank": FULL_RANK})
    assert [path.name for path in file.parent.iterdir()] == ["init.pth"]
    out = capsys.readouterr().out.splitlines()
    weights = {(one.split()[1], one.split()[0]): one.split()[2:] for one in out[1:-1]}
    assert len(weights) == 4 * (5 + 4 + 2)
    convolution = weights["conv_module.pointwise_conv1.weight", "3"]
    assert convolution == ["16", "x", "8", "x", "1", "8", "0.0000"]
    assert f"{file}: " in out[-1] and "of the dense model's" in out[-1]
    dense, args = ASRTask.build_model_from_file(*teacher.values())
    args.encoder, args.model = "moe_share_conformer", "moe_share"
    args.encoder_conf = {**args.encoder_conf, "low_rank": FULL_RANK}
    model = ASRTask.build_model(args)
    load_pretrained_model(str(file), model, ignore_init_mismatch=False)
    batch = tiny_models.batch()
    losses = [one.eval()(**batch)[0].item() for one in (model, dense)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def corpus(folder: Path) -> list[str]:
    """Arguments of asr_train for four utterances of noise."""
    rng = np.random.default_rng(0)
    lists: dict[str, str] = {"wav.scp": "", "text": "", "speech_shape": "", "text_shape": ""}
    for n, samples in enumerate((9000, 10000, 11000, 12000)):
        soundfile.write(folder / f"u{n}.wav", rng.uniform(-0.5, 0.5, samples), 16000)
        lists["wav.scp"] += f"u{n} {folder}/u{n}.wav\n"
        lists["text"] += f"u{n} abc\n"
        lists["speech_shape"] += f"u{n} {samples}\n"
        lists["text_shape"] += f"u{n} 3,{len(tiny_models.TOKENS)}\n"
    for name, text in lists.items():
        (folder / name).write_text(text)
    (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in tiny_models.TOKENS))
    command = ["--token_list", str(folder / "tokens.txt"), "--token_type", "char"]
    for subset in ("train", "valid"):
        for kind, file in (("speech,sound", "wav.scp"), ("text,text", "text")):
            command += [f"--{subset}_data_path_and_name_and_type", f"{folder}/{file},{kind}"]
        for name in ("speech_shape", "text_shape"):
            command += [f"--{subset}_shape_file", str(folder / name)]
    return command


@pytest.mark.slow
def test_start_train_save_resume_and_decode(
    tmp_path: Path, teacher: dict[str, str], unchanged_globals: None
) -> None:
    """One factor shared, the other not, and a module shared; each epoch is one step."""
    init = start(teacher, tmp_path, encoder_conf=RANK_3, **tiny_models.SPECAUG)
    settings = yaml.safe_load(Path(teacher["teacher_config"]).read_text())
    command = corpus(tmp_path)
    command += ["--config", str(tmp_path / "train.yaml"), "--init_param", str(init)]
    command += ["--normalize", "global_mvn", "--normalize_conf"]
    command += [f"stats_file={settings['normalize_conf']['stats_file']}"]
    command += ["--batch_type", "unsorted", "--batch_size", "4", "--num_workers", "0"]
    command += ["--ngpu", "0", "--optim", "sgd", "--optim_conf", "lr=0.001", "--resume", "true"]
    command += ["--num_att_plot", "0", "--use_matplotlib", "false", "--use_tensorboard", "false"]
    exp = tmp_path / "exp"
    ASRTask.main(cmd=[*command, "--output_dir", str(exp), "--max_epoch", "1"])
    first = (exp / "1epoch.pth").stat()
    ASRTask.main(cmd=[*command, "--output_dir", str(exp), "--max_epoch", "2"])
    assert (exp / "1epoch.pth").stat() == first  # resumed, not begun again
    states = [torch.load(file) for file in (init, exp / "1epoch.pth", exp / "2epoch.pth")]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    factors = [
        "encoder.encoders.0-1.self_attn.linear_q.up.weight",
        "encoder.encoders.1.self_attn.linear_q.down.weight",
        "encoder.encoders.0-3.feed_forward.w_1.weight",
    ]
    for key in factors:
        steps = [(after[key] - before[key]).norm() for before, after in itertools.pairwise(states)]
        # small steps away from the file, not a start of its own
        assert all(0 < step < 0.1 * states[0][key].norm() for step in steps)
    search = Speech2Text(
        exp / "config.yaml", exp / "valid.acc.ave.pth", beam_size=2, maxlenratio=0.2
    )
    assert search(np.random.default_rng(0).normal(size=9000).astype(np.float32))


def test_what_students_have_more_is_left_to_the_training(
    tmp_path: Path, teacher: dict[str, str]
) -> None:
    model_conf = {"distill_weight": 1.0, "teacher_output_size": 12, **teacher}
    file = start(teacher, tmp_path, encoder_conf=RANK_3, model_conf=model_conf)
    assert not any("distill_projection" in key for key in torch.load(file))


def test_refusals(tmp_path: Path, teacher: dict[str, str]) -> None:
    def message(**changes: Any) -> str:
        with pytest.raises(SystemExit) as refused:
            start(teacher, tmp_path, **changes)
        assert not list(tmp_path.glob("new/*"))
        text = str(refused.value.code)
        assert text.startswith("svd_init: error: ") and "\n" not in text
        return text.removeprefix("svd_init: error: ")

    config = f"{tmp_path}/train.yaml: "
    assert "has neither low_rank nor sharing" in message()
    assert message(encoder="conformer").startswith(f"{config}encoder conformer knows neither")
    assert message(encoders="x").startswith(f"{config}'encoders' is no option of espnet2.bin.asr_")
    assert message(max_epoch="x").startswith(f"{config}argument --max_epoch: invalid int value")
    wrong_rank = {"low_rank": [{"modules": ["self_attn"], "rank": 9}]}
    text = message(encoder_conf=wrong_rank)
    assert text.startswith(f"{config}no model can be built: low_rank[0]: 'rank' 9 is more than 8")
    text = message(encoder_conf={**RANK_3, "no_such_argument": 1})
    assert text.startswith(f"{config}no model can be built: TypeError: ")
    text = message(encoder_conf=RANK_3, decoder_conf={"num_blocks": 2})
    assert text.startswith("'decoder.decoders.1.") and "is missing in the dense model" in text
    text = message(encoder_conf={**RANK_3, "num_blocks": 6})
    assert text == "the dense model has 4 encoder layers, the new one 6; both need as many"

    config_file, model_file = teacher.values()
    files = ["--asr_train_config", config_file, "--asr_model_file", model_file]
    train = ["--config", str(training_yaml(tmp_path, encoder_conf=RANK_3))]
    with pytest.raises(SystemExit, match=r"model\.pth is the dense model; name another"):
        main([*files, *train, "--output", model_file])
    with pytest.raises(SystemExit, match=r"none\.yaml: no such file"):
        main([*files, "--config", "none.yaml", "--output", str(tmp_path / "new/init.pth")])
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"svd_init: error: .*file"):
        main([*files, *train, "--output", str(tmp_path / "file/init.pth")])
