"""A recipe's directory with a corpus and configurations so small that every stage takes seconds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHARACTERS = "一二三四五六七八"
# Names that local/experiment_name.sh gives with the options below.
TEACHER = "exp/asr_teacher_raw_zh_char_sp"
STUDENT = "exp/asr_student_raw_zh_char_sp"
DECODED = "decode_asr_model_valid.acc.ave/test"

_ENCODER = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 32,
    "num_blocks": 4,
    "input_layer": "conv2d6",
    "macaron_style": True,
    "rel_pos_type": "latest",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish",
    "use_cnn_module": True,
    "cnn_module_kernel": 7,
}
_TRAINING = {
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20},
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    "batch_type": "sorted",
    "batch_size": 6,
    # Batches are loaded in the training process: workers take longer to start than an epoch.
    "num_workers": 0,
    "max_epoch": 2,
    "unused_parameters": False,
    "optim": "adam",
    "optim_conf": {"lr": 0.005},
    "best_model_criterion": [["valid", "acc", "max"]],
    "keep_nbest_models": 2,
    "use_matplotlib": False,
    "num_att_plot": 0,
}
CONFIGURATIONS = {
    "teacher": {
        **_TRAINING,
        "encoder": "conformer",
        "encoder_conf": _ENCODER,
        "model_conf": {"ctc_weight": 0.5},
    },
    "student": {
        **_TRAINING,
        "encoder": "moe_share_conformer",
        "encoder_conf": {
            **_ENCODER,
            "experts": {"num_experts": 4, "top_k": 1, "modules": ["feed_forward"]},
            "sharing": [{"modules": ["*"], "except": ["*norm*", "*.router"], "groups": 1}],
        },
        "model": "moe_share",
        "model_conf": {"ctc_weight": 0.5, "balance_weight": 0.1, "distill_weight": 1.0},
    },
    "lm": {
        "lm": "seq_rnn",
        "lm_conf": {"unit": 16, "nlayers": 1},
        "batch_type": "sorted",
        "batch_size": 6,
        "num_workers": 0,
        "max_epoch": 2,
        "optim": "adam",
        "optim_conf": {"lr": 0.01},
        "best_model_criterion": [["valid", "loss", "min"]],
        "keep_nbest_models": 2,
        "use_matplotlib": False,
    },
    "decode": {
        "beam_size": 4,
        "ctc_weight": 0.3,
        "lm_weight": 0.5,
        "ctc_window_margin": 0,
        # An untrained model likes empty texts best, which would be the same whatever was decoded.
        "minlenratio": 0.3,
    },
}


def make_corpus(folder: Path) -> Path:
    """Tones of one pitch for each character, in AISHELL-1's layout: 12, 4 and 4 utterances."""
    rng = np.random.default_rng(0)
    transcript = []
    for number, (name, count) in enumerate((("train", 12), ("dev", 4), ("test", 4))):
        for index in range(count):
            speaker = f"S{2 * number + index % 2:04d}"
            utterance = f"BAC009{speaker}W{index:04d}"
            text = rng.permutation(list(CHARACTERS))[: rng.integers(3, 6)]
            wav = folder / "data_aishell" / "wav" / name / speaker / f"{utterance}.wav"
            wav.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wav, _speech(text, rng), 16000, subtype="PCM_16")
            transcript.append(f"{utterance} {' '.join(text)}\n")
    path = transcript_of(folder)
    path.parent.mkdir()
    path.write_text("".join(transcript), encoding="utf-8")
    return folder


def _speech(text: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    time_axis = np.arange(4000) / 16000
    tones = [np.sin(2 * np.pi * 250 * 1.4 ** CHARACTERS.index(c) * time_axis) for c in text]
    envelope = np.sin(np.pi * np.arange(4000) / 4000)
    tone = np.concatenate([0.3 * envelope * tone for tone in tones])
    return tone + 0.01 * rng.normal(size=tone.size)


def transcript_of(corpus: Path) -> Path:
    return corpus / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"


@dataclass(frozen=True)
class Recipe:
    """egs2/aishell/asr1 of a tree whose other folders are this checkout's.

    Attributes:
        directory: where run.sh lies and data, dump and exp go.
        corpus: what ``--aishell`` names.
    """

    directory: Path
    corpus: Path

    @classmethod
    def make(cls, root: Path, corpus: Path) -> "Recipe":
        root.mkdir(parents=True, exist_ok=True)
        for name in ("conf", "local", "espnet_moe_share"):
            (root / name).symlink_to(ROOT / name)
        directory = root / "egs2" / "aishell" / "asr1"
        own = ROOT / "egs2" / "aishell" / "asr1"
        directory.mkdir(parents=True)
        for name in ("run.sh", "path.sh", "cmd.sh"):
            shutil.copy(own / name, directory)
        for name in ("conf", "local"):
            (directory / name).symlink_to(os.readlink(own / name))
        (directory / "tiny").mkdir()
        for name, settings in CONFIGURATIONS.items():
            (directory / "tiny" / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        return cls(directory, corpus)

    def clone(self, root: Path, *names: str) -> "Recipe":
        """Another recipe's directory with copies of some of this one's results."""
        other = Recipe.make(root, self.corpus)
        for name in names:
            shutil.copytree(self.directory / name, other.directory / name, symlinks=True)
        return other

    @property
    def environment(self) -> dict[str, str]:
        """The interpreter of the tests first on PATH, and one thread for each process."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        root = str(self.directory.parents[2])
        own = {"PATH": path, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "ESPNET_ROOT": ""}
        return {**os.environ, **own}

    def command(self, *options: str) -> list[str]:
        """run.sh with the tiny corpus and configurations; later options win."""
        tiny = {name: f"tiny/{name}.yaml" for name in CONFIGURATIONS}
        return [
            *("./run.sh", "--corpus", "aishell", "--aishell", str(self.corpus), "--expect", "none"),
            *("--teacher_config", tiny["teacher"], "--asr_config", tiny["student"]),
            *("--inference_config", tiny["decode"], "--test_sets", "test"),
            *("--ngpu", "0", "--nj", "2", "--inference_nj", "2", "--skip_packing", "false"),
            *options,
        ]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.call(*self.command(*options))

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Any command in the recipe's directory and environment."""
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True
        )

    def kill_when(self, happened: Callable[[], bool], *options: str) -> str:
        """Run, kill the whole process group once something has happened, return its output.

        Also waits until nothing that it has started runs any more.
        """
        output = self.directory / "killed.log"
        with open(output, "wb") as stream:
            process = subprocess.Popen(
                self.command(*options),
                cwd=self.directory,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while not happened():
            assert process.poll() is None, f"ended before it was killed: {output.read_text()}"
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 20
        while running := self.processes():
            assert time.monotonic() < deadline, f"still running: {running}"
            time.sleep(0.05)
        return output.read_text()

    def processes(self) -> list[str]:
        """Command lines of the processes that work in the recipe's directory."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(entry / "cwd") == str(self.directory):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:  # ended meanwhile, or another user's
                continue
        return [command for command in found if command]  # a zombie has none


@dataclass(frozen=True)
class Trained:
    """A recipe after every stage has run, and what it said."""

    recipe: Recipe
    stdout: str
    stderr: str


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Modification time and size of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def columns(path: Path) -> dict[str, str]:
    """Id -> value of a file such as ``text``."""
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs}


def assert_one_line_error(done: subprocess.CompletedProcess[str], program: str, *said: str) -> None:
    """Failed with one line that starts with the program's name; progress bars may precede it."""
    assert done.returncode not in (0, None), done.stdout
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, done.stderr
    assert errors[0] == done.stderr.splitlines()[-1]
    assert errors[0].startswith(f"{program}: error: "), errors[0]
    for part in said:
        assert part in errors[0]
    assert "Traceback" not in done.stdout + done.stderr
