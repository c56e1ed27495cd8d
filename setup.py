"""Packaging of espnet_moe_share."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "espnet_moe_share/__init__.py").read_text())

# Files for small devices, and what runs them
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
# ESPnet3's CER; of espnet[asr], which has more than that
ESPNET3 = ["jiwer"]

setup(
    name="espnet_moe_share",
    version=VERSION.group(1),
    description="Small ESPnet speech encoders: shared layers, sparsely-gated experts, distillation",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["espnet_moe_share", "espnet_moe_share.*"]),
    package_data={"espnet_moe_share": ["py.typed"]},
    python_requires=">=3.12,<3.14",
    install_requires=[
        "espnet[train]>=202611",
        # 2.13 is what the figures in RESULTS.md were measured with; ESPnet excludes 2.12.
        "torch>=2.11",
        "torchaudio>=2.11",
        "sentencepiece",
        "pyyaml",
        "numpy",
        # the recipes: audio files, resampling as sox does it, progress bars
        "soundfile",
        "soxr",
        "tqdm",
        # the mini recipe's sentences -> recorded syllables
        "pypinyin",
    ],
    extras_require={
        "export": EXPORT,
        "espnet3": ESPNET3,
        "test": ["pytest", "pytest-xdist", "ruff", "mypy", "types-PyYAML", *EXPORT, *ESPNET3],
    },
    classifiers=[
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "License :: OSI Approved :: Apache Software License",
    ],
)
