"""`dynfusion <verb>`: what a person types, turned into one call of a function in `dynfusion.verbs`.

Only this file knows the command line, and it imports no heavy library: `--help` answers at once. A verb's module is
imported when that verb is run. Exit codes: 0 done, 1 ran and failed, 2 wrong use, 130 interrupted (Ctrl-C), 143 ended
by SIGTERM; `submit` adds 3, the job was stopped, and 4, no cluster.
"""

import csv
import importlib
import importlib.metadata
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

app = typer.Typer(
    name="dynfusion",
    help="Fuse pretrained molecular embeddings into one that keeps working when some of them are missing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
config_app = typer.Typer(help="Look at settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")
plan_app = typer.Typer(help="Say what something will cost.", no_args_is_help=True)
app.add_typer(plan_app, name="plan")
data_app = typer.Typer(help="Get public data.", no_args_is_help=True)
app.add_typer(data_app, name="data")

JOBS = ("train", "tune", "evaluate", "pack", "embed", "doctor")
CONTINUING = ("pack", "train", "tune", "evaluate", "demo", "data")
"""Verbs whose interrupted work is taken up by the same command; the others have little to lose and begin again."""
DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings on top, such as train.epochs=3.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; appears whole or not at all.")]


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"dynfusion {importlib.metadata.version('dynfusion')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error and the workers' output.")
    ] = False,
) -> None:
    """Fuse pretrained molecular embeddings into one that keeps working when some of them are missing."""
    DEBUG.set(debug)


@app.command(epilog="Example: dynfusion demo --out demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("demo"),
) -> None:
    """Run everything once, from molecules to the report, on real molecules that come with installed packages."""
    _call("demo", out, debug=DEBUG.get())


@app.command(
    epilog="Example: dynfusion embed --input molecules.csv --smiles-column smiles --encoder morgan --out morgan/"
)
def embed(
    input: Annotated[Path, typer.Option("--input", help="CSV file with a header.")],
    encoder: Annotated[str, typer.Option("--encoder", help="morgan, descriptors or selfies-ngrams.")],
    out: Out,
    smiles_column: Annotated[str, typer.Option("--smiles-column", help="Column of SMILES.")] = "smiles",
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column of ids; by default rows are numbered.")
    ] = None,
    on_bad: Annotated[
        str, typer.Option("--on-bad", help="error or absent: what an unreadable SMILES becomes.")
    ] = "error",
    workers: Annotated[int | None, typer.Option("--workers", help="Processes; by default one a core.")] = None,
) -> None:
    """Encode the molecules of a CSV file with one encoder."""
    _call(
        "embed",
        input=input,
        smiles_column=smiles_column,
        id_column=id_column,
        encoder=encoder,
        out=out,
        on_bad=on_bad,
        workers=workers,
    )


Modalities = Annotated[
    list[str],
    typer.Option(
        "--modality",
        metavar="NAME=URI",
        help="A folder of `embed`, .npy, .npz, Parquet, Arrow, CSV or TSV files, a folder or 'pattern*' of them; "
        "repeatable.",
    ),
]
PackOut = Annotated[
    str | None, typer.Option("--out", metavar="URI", help="Folder of the packed data set, or s3://bucket/folder.")
]
Extend = Annotated[
    str | None,
    typer.Option(
        "--extend",
        metavar="URI",
        help="Instead of --out: add rows, modalities or labels to this data set, under a new manifest.",
    ),
]
Table = Annotated[
    str | None, typer.Option("--table", metavar="URI", help="CSV or Parquet with ids, SMILES, labels, split.")
]
IdColumn = Annotated[str, typer.Option("--id-column", help="The table's column of ids.")]
Labels = Annotated[str | None, typer.Option("--labels", metavar="A,B", help="The table's label columns.")]
SplitColumn = Annotated[str | None, typer.Option("--split-column", help="The table's column of train, valid, test.")]
OnBad = Annotated[
    str, typer.Option("--on-bad", help="error or absent: what a value that is not finite or too large becomes.")
]
OnDuplicate = Annotated[
    str,
    typer.Option(
        "--on-duplicate",
        help="error, first or last: which row of an id given twice counts; in tables, which of two different values.",
    ),
]
ZeroRows = Annotated[str, typer.Option("--zero-rows", help="keep or absent: what a row of zeros means.")]
Holdout = Annotated[float, typer.Option("--holdout", help="Share of molecules kept out of training and statistics.")]
PackSeed = Annotated[int, typer.Option("--seed", help="Of the shuffle.")]
BinaryDtype = Annotated[
    str, typer.Option("--binary-dtype", help="Numbers in columns of bytes: float16, float32, float64, bfloat16.")
]
MemoryGb = Annotated[
    float,
    typer.Option(
        "--memory-gb",
        help="Memory of a process, about. Read whole however large: an Arrow record batch that is compressed or on S3, "
        "a Parquet row group of more than 16 columns on S3, the ids in an .npz.",
    ),
]
PackWorkers = Annotated[
    int | None, typer.Option("--workers", help="Ray workers; by default threads, or Ray where RAY_ADDRESS is set.")
]


@app.command(epilog="Example: dynfusion pack --modality morgan=morgan/ --modality selfies=vectors.parquet --out packed")
def pack(
    modality: Modalities,
    out: PackOut = None,
    extend: Extend = None,
    table: Table = None,
    id_column: IdColumn = "id",
    labels: Labels = None,
    split_column: SplitColumn = None,
    on_bad: OnBad = "error",
    on_duplicate: OnDuplicate = "error",
    zero_rows: ZeroRows = "keep",
    holdout: Holdout = 0.0,
    seed: PackSeed = 0,
    binary_dtype: BinaryDtype = "float16",
    memory_gb: MemoryGb = 2.0,
    workers: PackWorkers = None,
) -> None:
    """Join embeddings by id and write one shuffled, checksummed data set. The same command continues a killed one."""
    inputs = {"modalities": modality, "table": table, "id_column": id_column, "split_column": split_column}
    inputs |= {"labels": _names(labels), "binary_dtype": binary_dtype}
    rules = {"on_bad": on_bad, "on_duplicate": on_duplicate, "zero_rows": zero_rows, "holdout": holdout, "seed": seed}
    options = {**inputs, **rules, "memory_gb": memory_gb, "out": out, "extend": extend}
    if workers is None and "RAY_ADDRESS" not in os.environ:
        _call("pack", **options)
    else:
        _call("pack_on_ray", workers=workers, debug=DEBUG.get(), **options)


@app.command(epilog="Example: dynfusion inspect packed --json")
def inspect(
    uri: Annotated[str, typer.Argument(help="A packed data set.")],
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Say what a packed data set holds: modalities, dimensions, rows, present rates, encoders, fingerprint."""
    _call("inspect", uri, as_json=json)


@app.command(epilog="Example: dynfusion sample packed --rows 5")
def sample(
    uri: Annotated[str, typer.Argument(help="A packed data set.")],
    rows: Annotated[int, typer.Option("--rows", help="How many.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
) -> None:
    """Print some rows of a packed data set: ids, labels, and the first numbers of each vector or why it is absent."""
    _call("sample", uri, rows=rows, seed=seed)


@app.command(epilog="Example: dynfusion verify packed")
def verify(uri: Annotated[str, typer.Argument(help="A packed data set.")]) -> None:
    """Check every checksum of a packed data set; exit 1 and name the file when one is wrong."""
    if _call("verify", uri):
        raise typer.Exit(1)


@app.command(epilog="Example: dynfusion train jobs/runs/demo.toml data.uri=packed loss.alignment=0.1")
def train(
    run: Annotated[Path, typer.Argument(help="Run file (TOML).")],
    overrides: Overrides = None,
) -> None:
    """Train a model, or continue a run that was interrupted."""
    _call("train", run, overrides or [], debug=DEBUG.get())


@app.command(
    epilog="Example: dynfusion tune tune_spaces/joint.toml --run jobs/runs/pretrained.toml data.uri=packed\n\n"
    "Example: dynfusion tune show runs/joint"
)
def tune(
    space: Annotated[
        str,
        typer.Argument(metavar="SPACE", help="Space file (TOML); or the word show, with a sweep's folder behind it."),
    ],
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run file (TOML) that is searched around; needed.")] = None,
    search: Annotated[str | None, typer.Option("--search", help="random, the default, or optuna.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="fifo, the default, asha or median.")] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Trials in all, 32 by default; may be raised.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the samples, 0 by default.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Folder of the sweep in cluster.storage; by default the space's name.")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            "--objectives",
            metavar="A,B",
            help="score, the default, all_present, one_absent, reconstruction, probe; the first decides.",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Best trials to run again beside the default, 3 by default; 0: none.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Fresh seeds for these runs, 3 by default.")] = None,
    grace: Annotated[
        float | None,
        typer.Option("--grace", help="Share of a trial before which asha and median end none, 0.2 by default."),
    ] = None,
    reduction: Annotated[
        int | None, typer.Option("--reduction", help="asha: one of so many goes on at each rung, 4 by default.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option("--at-once", help="Trials at the same time; by default as many as there is room for.")
    ] = None,
) -> None:
    """Search for better settings than a run's, or continue a search; `tune show DIR` writes the report of one."""
    if space == "show":
        if len(overrides or []) != 1:
            raise typer.BadParameter("found none or several, allowed is one folder of a sweep", param_hint="DIR")
        _call("tune_show", (overrides or [])[0])
        return
    if run is None and Path(space).is_dir():
        raise typer.BadParameter(
            f"{space} is a folder, `dynfusion tune show {space}` reports on it", param_hint="SPACE"
        )
    if run is None:
        raise typer.BadParameter("a run file is required", param_hint="--run")
    options: dict[str, Any] = {"search": search, "scheduler": scheduler, "samples": samples, "seed": seed, "name": name}
    options |= {"objectives": objectives, "top_k": top_k, "seeds": seeds, "grace": grace}
    options |= {"reduction": reduction, "at_once": at_once}
    _call("tune", space, run, overrides or [], options=options, debug=DEBUG.get())


@app.command(
    epilog="Example: dynfusion evaluate --model runs/pool/model --tasks bace=packed/bace,bbbp=packed/bbbp --out report"
)
def evaluate(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="[NAME=]FOLDER[,FOLDER...]",
            help="Model folder, or those of one model trained with several seeds; given twice, models are compared.",
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            metavar="[NAME=]URI[,...]",
            help="Packed, labelled data sets, or CSV or Parquet files with SMILES, which need no name.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for cells and report.")] = Path("report"),
    ablation: Annotated[
        list[str] | None,
        typer.Option("--ablation", metavar="[NAME=]FOLDER", help="Model with a part left out; given split only."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="A,B",
            help="Label columns of such files; by default a MoleculeNet set's, else the one of 0 and 1.",
        ),
    ] = None,
    smiles_column: Annotated[str, typer.Option("--smiles-column", help="Of such files.")] = "smiles",
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Of such files; by default id, else rows are numbered.")
    ] = None,
    split_column: Annotated[
        str | None, typer.Option("--split-column", help="Of such files: train, valid, test; by default split.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The given split and a linear probe only: minutes.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Everything on every fold: a day.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="CPUs to use; all by default.")] = None,
    overrides: Overrides = None,
) -> None:
    """Measure models under every pattern of missing modalities, beside their rivals, and write the report."""
    columns = _table_columns(labels, smiles_column, id_column, split_column)
    overrides = [*_extent(quick, full), *(overrides or [])]
    told = {"tasks": tasks, "ablations": ablation or [], "columns": columns, "workers": workers, "overrides": overrides}
    _call("evaluate", model, out=out, **told, debug=DEBUG.get())


@app.command(
    epilog="Example: dynfusion submit train jobs/runs/demo.toml cluster.workers=8 --address http://head:8265",
    context_settings={"ignore_unknown_options": True},
)
def submit(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="train, tune, evaluate, pack, embed or doctor.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="As on a command line of that verb.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="URL", help="Of the dashboard; by default RAY_API_SERVER_ADDRESS, then RAY_ADDRESS."
        ),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="Folder to send, without what .gitignore and .rayignore name.")
    ] = Path(),
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="Environment of the job, no secrets; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the job; by default the run's, or the output folder's.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id and return.")] = False,
    stop_on_interrupt: Annotated[
        bool, typer.Option("--stop-on-interrupt", help="Ctrl-C stops the job; by default it only ends the following.")
    ] = False,
) -> None:
    """Run a verb as a job of a Ray cluster, or follow it if it runs already.

    The exit code is 0 only if the job succeeded; 1 it failed, 2 wrong use, 3 it was stopped, 4 no cluster or no token,
    130 interrupted.
    """
    parsed = _parse(verb, arguments or [])
    options = importlib.import_module("dynfusion.verbs.submit").SubmitOptions(
        address=address,
        working_dir=working_dir,
        env=env or [],
        name=name,
        wait=not no_wait,
        stop_on_interrupt=stop_on_interrupt,
    )
    code = _call("submit", verb, [*(arguments or []), *["--debug"] * DEBUG.get()], parsed, options)
    if code:
        raise typer.Exit(code)


@app.command(
    epilog="Example: dynfusion doctor --cluster HEAD:6379 --data s3://bucket/packed --storage s3://bucket/runs"
)
def doctor(
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ADDRESS",
            envvar="RAY_ADDRESS",
            help="HOST:6379 on a machine of a Ray cluster, or http://HOST:8265 from outside.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="URI", help="A packed data set.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="URI", help="Folder or s3:// address for runs (cluster.storage).")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for shards (data.cache_dir); its disk is looked at.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Check this machine, a cluster, data and storage before a run, and say what to do; exit 1 when something fails."""
    subjects = {"cluster": cluster or None, "data": data, "storage": storage, "cache": cache}
    if code := _call("doctor", **subjects, as_json=json, debug=DEBUG.get()):
        raise typer.Exit(code)


@app.command(epilog="Example: dynfusion export --checkpoint runs/demo/checkpoint-00000200-001 --out model")
def export(
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="Checkpoint folder of a run, or its S3 address.")],
    out: Out,
) -> None:
    """Write the plain model folder of a checkpoint; needs neither DeepSpeed nor Ray."""
    _call("export", checkpoint, out)


@app.command(epilog="Example: dynfusion report first/ second/ --out comparison")
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders with a report.json.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for a comparison of several; by default comparison.")
    ] = None,
) -> None:
    """Write report.md and report.html again from report.json, or compare several reports."""
    _call("report", folders, out=out)


@config_app.command("show", epilog="Example: dynfusion config show jobs/runs/demo.toml train.epochs=3")
def config_show(run: Annotated[Path, typer.Argument(help="Run file (TOML).")], overrides: Overrides = None) -> None:
    """Print the full tree of a run's settings with the defaults filled in, as TOML."""
    _call("config_show", run, overrides or [])


@plan_app.command(
    "evaluate",
    epilog="Example: dynfusion plan evaluate --model runs/demo/model --tasks bbbp=packed/bbbp",
    context_settings={"ignore_unknown_options": True},
)
def plan_evaluate(
    arguments: Annotated[list[str], typer.Argument(metavar="ARGUMENT...", help="As of evaluate.")],
) -> None:
    """Say how long an evaluation takes on this machine; nothing is fitted. Takes the arguments of `evaluate`."""
    given = _parse("evaluate", arguments)
    columns = _table_columns(*(given[name] for name in ("labels", "smiles_column", "id_column", "split_column")))
    overrides = [*_extent(given["quick"], given["full"]), *(given["overrides"] or [])]
    told = {"tasks": given["tasks"], "ablations": given["ablation"], "columns": columns, "workers": given["workers"]}
    _call("plan_evaluate", given["model"], **told, overrides=overrides)


@plan_app.command(
    "train", epilog="Example: dynfusion plan train jobs/runs/pubchem.toml data.uri=s3://bucket/pool --gpus 8 --gpu h200"
)
def plan_train(
    run: Annotated[Path, typer.Argument(help="Run file (TOML).")],
    overrides: Overrides = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="GPUs, one a worker; else the run's workers.")
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Their kind: h200, h100, a100 or l4.")] = None,
    cpus: Annotated[
        int | None,
        typer.Option("--cpus", min=1, help="CPUs in all, without GPUs; by default those of the run's workers."),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Machines; by default as few as hold them, 8 GPUs each.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration", help="JSON of what a CPU machine reaches; used if there, else measured and kept."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Say what a training run takes: rows/s, hours, memory, bytes from S3, and what binds; nothing is trained."""
    where = {"gpus": gpus, "gpu": gpu, "cpus": cpus, "nodes": nodes}
    _call("plan_train", run, overrides or [], **where, calibration=calibration, as_json=json)


@data_app.command("fetch", epilog="Example: dynfusion data fetch moleculenet --out sets --tasks bace,sider")
def data_fetch(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="moleculenet.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for a CSV file of each set.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with <set>/train.csv, valid.csv and test.csv, no download.")
    ] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", metavar="A,B", help="Sets; by default all.")] = None,
) -> None:
    """Get published labelled sets, checked, as CSV files for `evaluate --tasks`. The same command continues."""
    _call("fetch", collection, out=out, source=source, tasks=_names(tasks))


@contextmanager
def _sigterm_interrupts() -> Iterator[threading.Event]:
    """Inside the block SIGTERM (`ray job stop`, Kubernetes, Slurm) ends a command as Ctrl-C does; yields what it sets.

    KeyboardInterrupt it must be: Ray's waits print any other exception of a signal handler and wait on.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    owner = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a process forked by a verb: it has nothing to let go
            os._exit(128 + number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        told.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. An error is one sentence; `--debug` shows where it arose."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _sigterm_interrupts() as terminated:
        code = _run(words, debug="--debug" in words)
    told = {130: "interrupted", 143: "terminated"}.get(code := 143 if terminated.is_set() else code)
    verb = next((word for word in words if not word.startswith("-")), "")
    if told and verb != "submit":  # which has said its own
        print(f"{told}; the same command {'continues' if verb in CONTINUING else 'begins again'}", file=sys.stderr)
    return code


def _run(words: list[str], *, debug: bool) -> int:
    try:
        code = app(
            args=["--debug"] * debug + [word for word in words if word != "--debug"],
            prog_name="dynfusion",
            standalone_mode=False,
        )
    except TyperException as error:
        said = error.format_message().rstrip(".")
        print(f"error: {said}. Try 'dynfusion --help', or --help after a verb.", file=sys.stderr)
        return 2
    except Exception as error:  # the end of the line: whatever it was, a person gets a sentence and a scheduler a 1
        if debug:
            traceback.print_exc()
        print(f"error: {_for_terminal(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0


def _for_terminal(text: str) -> str:
    """A sentence may quote a file: nothing in it steers the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def _parse(verb: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments of a verb by name, without running it. Wrong use is raised as that verb would."""
    if verb not in JOBS:
        raise typer.BadParameter(f"found {verb!r}, allowed is {', '.join(JOBS)}", param_hint="VERB")
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group.commands[verb].make_context(f"dynfusion {verb}", [*arguments]).params


def _extent(quick: bool, full: bool) -> list[str]:
    """What `evaluate --quick` or `--full` sets."""
    return [f"evaluation.extent={'full' if full else 'quick'}"] if quick or full else []


def _table_columns(labels: str | None, smiles: str, identifier: str | None, split: str | None) -> Any:
    """How the columns of a labelled table are called."""
    table = importlib.import_module("dynfusion.verbs.labelled_table")
    return table.TableColumns(smiles=smiles, id=identifier, split=split, labels=tuple(_names(labels)))


def _names(text: str | None) -> list[str]:
    """`a,b` as names; one that holds a comma stands in double quotes."""
    return next(csv.reader([text], skipinitialspace=True)) if text else []


def _call(verb: str, *positional: Any, **named: Any) -> Any:
    """The one dispatch: import the verb's module and call its function of the same name."""
    function = getattr(importlib.import_module(f"dynfusion.verbs.{verb}"), verb)
    return function(*positional, **named)
