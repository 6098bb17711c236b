"""`dynfusion demo`: the whole way through once, on real molecules that come inside installed packages.

    molecules --embed--> folders --drop 15 % of the pool's cells--> --pack--> data sets
        --train--> model --evaluate--> cells --report--> report.html

Every stage is the function behind the verb of the same name, and finds what an earlier, interrupted demo finished.
"""

import csv
import os
import shutil
import sys
import time
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import numpy as np

from dynfusion.edges.ray_cluster import cluster
from dynfusion.encoders.absence import drop_cells
from dynfusion.encoders.embed import ENCODERS
from dynfusion.encoders.embedded_data import EmbeddedData, LabelledMolecules, load
from dynfusion.encoders.folder import copy_without, read_folder
from dynfusion.encoders.molecules import Molecules
from dynfusion.run_settings import RunSettings, read_run
from dynfusion.store.manifest import Manifest
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.reasons import Reason
from dynfusion.verbs.display import console, progress
from dynfusion.verbs.embed import embed_with_all
from dynfusion.verbs.evaluate import evaluate_models
from dynfusion.verbs.evaluated_models import open_models
from dynfusion.verbs.train import train_settings

RUN_FILE = Path(os.path.relpath(str(files("dynfusion.verbs").joinpath("demo.toml"))))
DROPPED_SHARE = 0.15
DROP_SEED = 0


def demo(out: Path, *, debug: bool = False) -> Path:
    """Run it all into `out` and return the report's page. The same command continues an interrupted demo."""
    started = time.monotonic()
    data = load()
    _print_counts(data)
    pool = _pack_pool(data.pool, out)
    tasks = {name: _pack_task(name, molecules, out) for name, molecules in data.tasks.items()}
    _print_pool(pool)
    settings = demo_settings(out)
    with cluster(cpus=settings.cluster.workers[1], debug=debug):
        train_settings(settings, debug=debug)
        model = out / "runs" / settings.cluster.name / "model"
        models = open_models({settings.cluster.name: [str(model)]}, {})
        page = evaluate_models(models, tasks=tasks, out=out / "report", settings=settings.evaluation)
    _print_farewell(out, model, page, tasks, time.monotonic() - started)
    return page


def demo_settings(out: Path) -> RunSettings:
    """The run file that ships with the package, its data and run folder under `out`."""
    return read_run(RUN_FILE, [f"data.uri={out / 'packed' / 'pool'}", f"cluster.storage={out / 'runs'}"])


def _pack_pool(molecules: Molecules, out: Path) -> Manifest:
    """The unlabelled molecules, with a documented share of cells dropped at random on top of natural absence."""
    whole = embed_with_all("pool", molecules, list(ENCODERS), out=out / "embeddings" / "pool")
    present = np.stack([read_folder(folder).reasons == Reason.PRESENT for folder in whole.values()], axis=1)
    dropped = drop_cells(molecules.ids, list(whole), present=present, fraction=DROPPED_SHARE, seed=DROP_SEED)
    folders = {}
    for column, (name, folder) in enumerate(whole.items()):
        folders[name] = out / "embeddings" / "pool-with-absence" / name
        if not folders[name].exists():
            copy_without(folder, dropped[:, column], out=folders[name])
    with progress("pack pool") as advance:
        return pack(PackInputs(folders), out=out / "packed" / "pool", progress=advance)


def _pack_task(name: str, molecules: LabelledMolecules, out: Path) -> str:
    """A labelled set, complete but for natural absence: evaluation hides modalities itself."""
    embedded = out / "embeddings" / name
    folders = embed_with_all(name, Molecules(molecules.ids, molecules.smiles), list(ENCODERS), out=embedded)
    table = embedded / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "smiles", molecules.label_name, "split"])
        writer.writerows(zip(molecules.ids, molecules.smiles, molecules.labels, molecules.split, strict=True))
    inputs = PackInputs(folders, table=table, labels=(molecules.label_name,), split_column="split")
    pack(inputs, out=out / "packed" / name, settings=PackSettings())
    return str(out / "packed" / name)


def _print_counts(data: EmbeddedData) -> None:
    for name, counts in data.counts.items():
        parts = ", ".join(f"{number:,} {word.replace('_', ' ')}" for word, number in asdict(counts).items() if number)
        console.print(f"{name}: {parts}")


def _print_pool(manifest: Manifest) -> None:
    rates = ", ".join(f"{spec.name} {spec.present_rows / manifest.rows:.0%}" for spec in manifest.modalities)
    console.print(f"pool: {manifest.rows:,} molecules, present: {rates}")


def _print_farewell(out: Path, model: Path, page: Path, tasks: dict[str, str], seconds: float) -> None:
    name, uri = next(iter(tasks.items()))
    pool = out / "packed" / "pool"
    program = sys.argv[0] if shutil.which("dynfusion") is None else "dynfusion"
    console.print(
        f"\nDone in {seconds:.0f} s.\n"
        f"  report: {page}\n"
        f"  model:  {model}\n\n"
        "Worth trying next:\n"
        f"  {program} inspect {pool}\n"
        f"  {program} train {RUN_FILE} data.uri={pool} cluster.storage={out / 'runs'} "
        "cluster.name=paper loss.preset=paper\n"
        f"  {program} evaluate --model {model} --tasks {name}={uri} --out {out / 'again'}"
    )
