import pytest
from ray._private import utils

from dynfusion.edges.machine_probe import object_store_bytes

GIB = 1 << 30


@pytest.mark.parametrize("memory", [4, 64, 128, 2000])
@pytest.mark.parametrize("shm", [0.0625, 2, 16, 64, 600])
def test_the_object_store_takes_what_ray_says(memory: float, shm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda: int(shm * GIB))
    rays = utils.resolve_object_store_memory(int(memory * GIB), None)
    assert object_store_bytes(int(memory * GIB), int(shm * GIB)) == pytest.approx(rays, rel=1e-6)
