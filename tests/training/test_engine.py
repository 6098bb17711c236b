"""What an engine says of the machine that it is on."""

import pytest
import torch

from dynfusion.training.engine import precision_note


@pytest.mark.parametrize(
    ("precision", "device", "processor", "warns"),
    [
        ("bf16", "cpu", "AVX2", True),
        ("bf16", "cpu", "DEFAULT", True),
        ("bf16", "cpu", "AVX512", False),
        ("fp32", "cpu", "AVX2", False),
        ("bf16", "cuda", "AVX2", False),
    ],
)
def test_bf16_without_instructions_for_it_is_told(
    precision: str, device: str, processor: str, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    assert ("engine.precision=fp32" in precision_note(precision, torch.device(device))) is warns
