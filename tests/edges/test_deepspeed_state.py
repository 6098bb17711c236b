"""What DeepSpeed would unpickle is looked at first: tensors and its own types pass, all else is refused unrun."""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from dynfusion.edges.deepspeed_state import check_state


class Acting:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def state() -> dict[str, Any]:
    """The kinds of things that DeepSpeed's stages save."""
    return {
        "optimizer_state_dict": {
            "loss_scaler": LossScaler(scale=1.0),
            "zero_stage": ZeroStageEnum.optimizer_states,
            "param_slice_mappings": [OrderedDict(weight=fragment_address(numel=4, start=0))],
            "base_optimizer_state": [{"exp_avg": torch.ones(4), "step": torch.tensor(2.0)}],
        },
        "param_shapes": [OrderedDict(weight=torch.Size([2, 2]))],
        "ds_config": {"train_batch_size": 8, "optimizer": None},
        "sparse_tensor_module_names": set(),
    }


def test_what_deepspeed_saves_passes(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    check_state(tmp_path)


@pytest.mark.parametrize("place", ["state", "loss_scaler", "key", "whole", "plain pickle", "old format"])
def test_a_pickle_that_acts_is_refused_before_it_acts(tmp_path: Path, place: str) -> None:
    acting, made = Acting(tmp_path / "acted"), state()
    folder, path = tmp_path / "deepspeed", tmp_path / "deepspeed" / "mp_rank_00_model_states.pt"
    folder.mkdir()
    if place == "state":
        made["module"] = acting
    elif place == "loss_scaler":
        made["optimizer_state_dict"]["loss_scaler"].__dict__["cur_scale"] = acting
    elif place == "key":
        made[acting] = 1
    if place == "plain pickle":
        path.write_bytes(pickle.dumps(acting))
    else:
        whole = acting if place in ("whole", "old format") else made
        torch.save(whole, path, _use_new_zipfile_serialization=place != "old format")
    with pytest.raises(ValueError, match="holds something else than tensors and plain values"):
        check_state(folder)
    assert not acting.folder.exists()


@pytest.mark.parametrize("name", ["../../up", "/etc/x", "a/b"])
def test_a_parameter_called_like_a_path_is_refused(tmp_path: Path, name: str) -> None:
    """DeepSpeed's universal checkpoint makes a folder for each parameter, under its name."""
    made = state()
    made["param_shapes"][0][name] = torch.Size([1])
    torch.save(made, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(ValueError, match=f"found the name '{name}', allowed are names of parameters"):
        check_state(tmp_path)


def test_a_container_that_holds_itself_is_looked_at_once(tmp_path: Path) -> None:
    made, itself = state(), list[Any]()
    itself.append(itself)
    made["itself"] = itself
    torch.save(made, tmp_path / "mp_rank_00_model_states.pt")
    check_state(tmp_path)
