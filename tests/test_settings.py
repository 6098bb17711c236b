"""Settings: overrides, validation in one sentence, and the tree of a run."""

from pathlib import Path

import pytest
from pydantic import Field

from dynfusion.run_settings import RunSettings, identity, read_run
from dynfusion.settings import Settings, build, fingerprint, parse_overrides, read_toml, to_toml

DEMO = Path(__file__).parents[1] / "jobs" / "runs" / "demo.toml"


class Inner(Settings):
    rate: float = Field(0.5, ge=0, le=1)
    name: str = "x"


class Outer(Settings):
    inner: Inner = Inner()
    other: int | None = None


def test_overrides_are_toml_literals_or_plain_text() -> None:
    assert parse_overrides(["inner.rate=0.25", "inner.name=linear", "other=3"]) == {
        "inner": {"rate": 0.25, "name": "linear"},
        "other": 3,
    }
    assert parse_overrides(['a="3"', "b=[1, 2]", "c=true"]) == {"a": "3", "b": [1, 2], "c": True}


@pytest.mark.parametrize("text", ["inner.rate", "=3", "a b=3", "a..b=1"])
def test_an_override_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected dotted\.name=value"):
        parse_overrides([text])


def test_later_layers_win_leaf_by_leaf() -> None:
    made = build(Outer, {"inner": {"rate": 0.1, "name": "file"}}, {"inner": {"rate": 0.2}})
    assert made == Outer(inner=Inner(rate=0.2, name="file"))


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"inner": {"rte": 1}}, r"setting inner\.rte: unknown name, did you mean inner\.rate\?"),
        ({"zzz": 1}, r"setting zzz: unknown name, known here: inner, other"),
        ({"inner": {"rate": 2}}, r"setting inner\.rate: found 2, allowed is less than or equal to 1"),
        ({"inner": {"rate": "fast"}}, r"setting inner\.rate: found 'fast', allowed is a valid number"),
        ({"inner": {"rate": float("nan")}}, r"setting inner\.rate: found nan"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(tree: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(Outer, tree)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("cluster.workers=0", "found 0, allowed is a whole number from 1 on, or two of them"),
        ("cluster.workers=[3, 1]", r"found \[3, 1\], allowed is a whole number"),
        ("cluster.workers=[1, 2, 3]", r"found \[1, 2, 3\], allowed is a whole number"),
        ("cluster.name=../x", "found '../x', allowed are letters"),
        ("train.epochs=many", "setting train.epochs: found 'many', allowed is a valid integer$"),
    ],
)
def test_a_wrong_value_of_a_run_is_answered_in_plain_words(override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_run(DEMO, [override])


def test_nothing_writes_to_settings() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().rate = 0.1  # type: ignore[misc]


def test_the_printed_tree_reads_back_as_itself(tmp_path: Path) -> None:
    run = read_run(DEMO)
    (tmp_path / "again.toml").write_text(to_toml(run))
    again = read_run(tmp_path / "again.toml")
    assert again == run
    assert fingerprint(again) == fingerprint(run)


def test_a_run_is_called_after_its_file_and_needs_data(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[data]\nuri = "packed"\n')
    assert read_run(tmp_path / "mine.toml").cluster.name == "mine"
    (tmp_path / "bare.toml").write_text("")
    with pytest.raises(ValueError, match=r"setting data\.uri: a value is required"):
        read_run(tmp_path / "bare.toml")


def test_a_run_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.toml: no such file"):
        read_toml(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(ValueError, match=r"bad\.toml: not readable as TOML"):
        read_toml(tmp_path / "bad.toml")


def test_the_identity_of_a_run_ignores_where_it_is_kept_but_not_what_it_does() -> None:
    run = read_run(DEMO)
    for same in (
        "data.uri=elsewhere",
        "cluster.storage=there",
        "cluster.name=other",
        "train.keep_checkpoints=9",
        "cluster.workers=1",
        "train.log_every_steps=3",
    ):
        assert identity(read_run(DEMO, [same]), "data") == identity(run, "data"), same
    for other in ("loss.alignment=0.3", "train.seed=1", "engine.kind=torch", "masking.end=0.5"):
        assert identity(read_run(DEMO, [other]), "data") != identity(run, "data"), other
    longer = identity(read_run(DEMO, ["train.epochs=1000"]), "data")
    assert longer.run != identity(run, "data").run
    assert longer.run_but_epochs == identity(run, "data").run_but_epochs


def test_validation_belongs_to_the_identity_of_a_run_only_where_it_can_end_it() -> None:
    def who(*overrides: str) -> str:
        return identity(read_run(DEMO, overrides), "data").run

    watched, stops = who("validation.rows=500"), who("validation.patience=3")
    assert watched == who("validation.every_checkpoints=0") == who("validation.reference=here.json") == who()
    assert stops != watched
    for same in (
        "validation.keep_best_by=score",
        "validation.reference=here.json",
        "train.keep_checkpoints=9",
        "train.log_every_steps=3",
    ):
        assert who("validation.patience=3", same) == stops, same
    for other in (
        "validation.rows=500",
        "validation.min_improvement=0.1",
        "validation.every_checkpoints=2",
        "validation.tasks.bbbp=elsewhere",
        "train.checkpoint_every_steps=7",
    ):
        assert who("validation.patience=3", other) != stops, other


def test_every_setting_of_the_tree_says_what_it_is() -> None:
    def undocumented(kind: type[Settings], prefix: str = "") -> list[str]:
        missing = []
        for name, field in kind.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                missing += undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                missing.append(prefix + name)
        return missing

    assert undocumented(RunSettings) == []


@pytest.mark.parametrize("secret", ["user:password@", "user@", "%75:p%40ss@"])
def test_an_address_with_a_password_is_refused_without_repeating_it(secret: str) -> None:
    data = {"data": {"uri": "packed"}}
    with pytest.raises(ValueError, match=r"setting tracking\.mlflow: .* MLFLOW_TRACKING_PASSWORD") as refused:
        build(RunSettings, data, {"tracking": {"mlflow": f"https://{secret}host:5000"}})
    assert secret not in str(refused.value).replace("user:password@ in it", "")
    for address in ("http://host:5000", "http://host/a@b", "sqlite:///folder/a@b.db", "mlruns"):
        assert build(RunSettings, data, {"tracking": {"mlflow": address}}).tracking.mlflow == address
