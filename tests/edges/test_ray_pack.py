"""The same pack as Ray tasks: the same bytes, and a killed one continues."""

from pathlib import Path

import pytest

from dynfusion.edges.ray_pack import run_on_ray
from dynfusion.store import mapped_rows
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.verbs.pack_on_ray import pack_on_ray
from tests.store.sources import write_sources
from tests.store.test_pack import files_of
from tests.store.test_pack_scale import SMALL, in_many_pieces, inputs_of


def test_one_process_and_ray_workers_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    inputs = inputs_of(tmp_path)
    pack(inputs, out=tmp_path / "here", settings=SMALL)
    in_many_pieces(monkeypatch, 40_000, 64)
    monkeypatch.setattr(mapped_rows, "_ROW_BYTES", 12)  # two of three are gathered from their files by the workers
    functions: dict[str, int] = {}

    def run(function, jobs, *, finished):
        functions[function.__name__] = functions.get(function.__name__, 0) + len(jobs)
        run_on_ray(function, jobs, finished=finished)

    pack(inputs, out=tmp_path / "there", settings=SMALL, run_jobs=run)
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")
    assert set(functions) == {"scatter", "run_join", "run_shard"}
    assert min(functions.values()) > 1


def test_a_fault_found_by_a_worker_is_the_one_sentence_it_is(tmp_path: Path, ray_cluster: None) -> None:
    sources = write_sources(tmp_path / "sources", 50)
    (sources["odd"] / "ids.txt").write_text("m\n" * 50)
    with pytest.raises(ValueError, match=r"ids.txt has duplicate ids \(1 of them, such as 'm', 50 times\)"):
        pack(PackInputs(sources), out=tmp_path / "packed", run_jobs=run_on_ray)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sources"]


def test_the_verb_packs_on_a_cluster_what_lies_in_the_driver_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    sources = write_sources(tmp_path / "sources", 100)
    monkeypatch.chdir(tmp_path)  # where no worker of this cluster is
    modalities = [f"{name}={path.relative_to(tmp_path)}" for name, path in sources.items()]
    manifest = pack_on_ray(workers=2, debug=False, modalities=modalities, out="packed", seed=5)
    assert (tmp_path / "packed" / "manifest.json").exists()
    assert manifest == pack(PackInputs(sources), out=tmp_path / "here", settings=PackSettings(seed=5))
    with pytest.raises(ValueError, match="workers: found 0, at least 1 is needed"):
        pack_on_ray(workers=0, debug=False, modalities=modalities, out=str(tmp_path / "no"))
