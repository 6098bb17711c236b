import hashlib
from pathlib import Path

import pytest

from dynfusion.edges.download import download
from tests.edges.http_files import file_server

CONTENT = bytes(range(256)) * 4000


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(CONTENT)
    path = tmp_path / "here" / "file"
    with file_server(tmp_path) as server:
        server.break_after = 400_000
        for have in (400_000, 800_000):
            with pytest.raises(ValueError, match="broken off"):
                download(f"{server.address}/there", path, sha256=digest(CONTENT), digest=digest)
            assert [left.name for left in path.parent.iterdir()] == ["file.part"]
            assert (path.parent / "file.part").stat().st_size == have
        download(f"{server.address}/there", path, sha256=digest(CONTENT), digest=digest)
        assert path.read_bytes() == CONTENT
        assert [left.name for left in path.parent.iterdir()] == ["file"]
        assert [asked for _, asked in server.asked] == [None, "bytes=400000-", "bytes=800000-"]
        download(f"{server.address}/there", path, sha256=digest(CONTENT), digest=digest)
        assert len(server.asked) == 3, "a file that is there and right is not asked for"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_whole_part_and_a_server_without_ranges_are_no_trouble(tmp_path: Path, ranges: bool) -> None:
    (tmp_path / "there").write_bytes(CONTENT)
    with file_server(tmp_path) as server:
        server.ranges = ranges
        for left in (CONTENT, CONTENT[:1000]):
            path = tmp_path / f"file{len(left)}"
            path.with_name(f"{path.name}.part").write_bytes(left)
            download(f"{server.address}/there", path, sha256=digest(CONTENT), digest=digest)
            assert path.read_bytes() == CONTENT
            assert not path.with_name(f"{path.name}.part").exists()


def test_another_content_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(CONTENT)
    path = tmp_path / "here" / "file"
    with file_server(tmp_path) as server:
        with pytest.raises(ValueError, match=r"/there: found SHA-256 [0-9a-f]{64}, expected 00; it was removed"):
            download(f"{server.address}/there", path, sha256="00", digest=digest)
        assert not list(path.parent.iterdir())
        with pytest.raises(ValueError, match="/gone: the server answers 404 Not Found"):
            download(f"{server.address}/gone", path, sha256="00", digest=digest)
        assert not list(path.parent.iterdir())
    with pytest.raises(ValueError, match=r"not reached or broken off, .*; the same command continues"):
        download(f"{server.address}/there", path, sha256="00", digest=digest)
