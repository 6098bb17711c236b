"""All parsers by name."""

from tests.fuzz.examples import Examples
from tests.fuzz.judge import Parser
from tests.fuzz.parsers_inputs import input_parsers
from tests.fuzz.parsers_runs import run_parsers
from tests.fuzz.parsers_store import store_parsers

NAMES = (
    *("manifest", "blocks", "sidecar", "dataset"),
    *("npy", "npz", "parquet", "arrow", "csv", "table", "task", "embedding folder"),
    *("run file", "space file", "checkpoint", "state and history", "run folder", "model"),
    *("sweep records", "evaluation cells"),
)


def all_parsers(examples: Examples) -> dict[str, Parser]:
    """Every parser of the product that reads what comes from outside."""
    found = [*store_parsers(examples), *input_parsers(examples), *run_parsers(examples)]
    parsers = {parser.name: parser for parser in found}
    assert tuple(parsers) == NAMES, "the names are known before anything is made"
    return parsers
