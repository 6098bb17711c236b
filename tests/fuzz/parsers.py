"""All parsers by name."""

from tests.fuzz.examples import Examples
from tests.fuzz.judge import Parser
from tests.fuzz.parsers_arrays import array_parsers
from tests.fuzz.parsers_results import result_parsers
from tests.fuzz.parsers_runs import run_parsers
from tests.fuzz.parsers_store import store_parsers
from tests.fuzz.parsers_tables import table_parsers

NAMES = (
    *("manifest", "blocks", "sidecar", "dataset"),
    *("npy", "npz", "embedding folder", "parquet", "arrow", "csv", "table", "task"),
    *("run file", "space file", "checkpoint", "state and history", "run folder", "calibration", "model"),
    *("sweep records", "reference", "Ray's record", "evaluation cells"),
)


def all_parsers(examples: Examples) -> dict[str, Parser]:
    """Every parser of the product that reads what comes from outside."""
    makers = (store_parsers, array_parsers, table_parsers, run_parsers, result_parsers)
    found = [parser for maker in makers for parser in maker(examples)]
    parsers = {parser.name: parser for parser in found}
    assert tuple(parsers) == NAMES, "the names are known before anything is made"
    return parsers
