"""A few dozen mutated files for every parser; `python -m tests.fuzz.campaign` reads as many as there is time for."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.campaign import main
from tests.fuzz.examples import make_examples
from tests.fuzz.judge import Parser, Tally, case_seed, judge
from tests.fuzz.parsers import NAMES, all_parsers

pytestmark = pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
CASES = 40
SEEDS = st.integers(0, (1 << 32) - 1)


@pytest.fixture(scope="module")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parser]:
    return all_parsers(make_examples(tmp_path_factory.mktemp("fuzz")))


@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_file_is_taken_or_refused_in_one_sentence(parsers: dict[str, Parser], name: str) -> None:
    parser, tally = parsers[name], Tally()

    @given(SEEDS)
    @settings(
        max_examples=CASES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    def holds(seed: int) -> None:
        outcome = judge(parser, parser.make(Random(case_seed(seed, name, 0))))
        tally.add(outcome)
        assert not outcome.is_fault, f"{outcome.kind}: {outcome.sentence} (case_seed({seed}, {name!r}, 0))"

    holds()
    assert tally.cases >= CASES
    assert tally.share_past_first_check >= 0.5, tally.record()


@pytest.mark.parametrize("name", NAMES)
def test_the_example_itself_is_taken(parsers: dict[str, Parser], name: str) -> None:
    """What is mutated is valid: among cases that change little, some are accepted."""
    parser = parsers[name]
    outcomes = (judge(parser, parser.make(Random(case_seed(7, name, number)))) for number in range(200))
    assert any(outcome.kind == "accepted" for outcome in outcomes)


def test_a_case_is_the_same_for_the_same_seed(parsers: dict[str, Parser]) -> None:
    for name, parser in parsers.items():
        first, again = (parser.make(Random(case_seed(3, name, 5))) for _ in range(2))
        assert first == again, name


@pytest.mark.slow
def test_the_campaign_prints_a_line_for_each_parser_and_finds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cases", "4000", "--seed", "1", "--out", str(tmp_path / "faults")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(NAMES) + 1
    assert not (tmp_path / "faults").exists()


@pytest.mark.slow
def test_a_case_that_kills_its_process_is_kept_and_the_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--cases", "40", "--seed", "1", "--parsers", "manifest", "--out", str(tmp_path)]
    assert main([*options, "--die-at", "17"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    assert found["cases"] == 40
    assert found["undocumented"] == {"undocumented: the process died, -6": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest-1-17"]
    assert (tmp_path / "manifest-1-17" / "manifest.json").is_file()
