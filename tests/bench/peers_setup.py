"""Make an environment for every other loader that the feed is measured against.

    python -m tests.bench.peers_setup DIR

Each has its own below DIR, because their pins contradict each other and the project's. torch comes first, in the
version of this interpreter, so that no build for GPUs is pulled in.
"""

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

# What to install, and of which packages without their dependencies: those ask for a torchvision that asks for another
# torch (it upgraded torch silently), for cloud clients that a local read never loads, and for an older numpy.
PACKAGES = {
    "hugging_face": (["datasets==5.2.0"], []),
    "lance": (["pylance==14.0.2"], []),
    "mosaic": (
        [
            "tqdm",
            "matplotlib",
            "Brotli",
            "zstd",
            "python-snappy",
            "xxhash<4",
            "requests",
            "catalogue",
            "transformers<5",
        ],
        ["mosaicml-streaming==0.13.0"],
    ),
    "litdata": (["filelock", "lightning-utilities", "boto3", "requests", "obstore", "tifffile"], ["litdata==0.2.76"]),
    "webdataset": (["webdataset==1.0.2"], []),
}

# MosaicML imports two names for its picture datasets; the torchvision of PyPI does not load beside a CPU torch.
_TORCHVISION = {
    "__init__.py": "",
    "datasets.py": "class VisionDataset:\n    pass\n",
    "transforms/__init__.py": "",
    "transforms/functional.py": "def to_tensor(picture):\n    raise NotImplementedError\n",
}


def main(folder: Path) -> None:
    """Make what is missing; an environment that is there is left alone."""
    for name, (packages, alone) in PACKAGES.items():
        place = folder / name
        if (place / "made").exists():
            continue
        venv.create(place, with_pip=True, clear=True)
        _pip(place, [f"torch=={version('torch').partition('+')[0]}", "numpy", "pyarrow"])
        _pip(place, packages)
        if alone:
            _pip(place, ["--no-deps", *alone])
        if name == "mosaic":
            _write_torchvision(place)
        (place / "made").touch()
        print(f"{name}: {place}")


def _pip(place: Path, arguments: list[str]) -> None:
    command = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def _write_torchvision(place: Path) -> None:
    [packages] = place.glob("lib/python*/site-packages")
    for name, text in _TORCHVISION.items():
        file = packages / "torchvision" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
