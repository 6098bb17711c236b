"""What must be right where there are GPUs: the driver, the build of torch, and sums over them."""

from dynfusion.preflight.finding import Check, Finding, listed, on_every_machine, size
from dynfusion.preflight.observations import Machine, Observations


def _gpus(machine: Machine) -> Finding | None:
    if machine.gpu_problem is not None:
        cure = (
            "install or restart the NVIDIA driver, or give the container its devices (--gpus all, a pod the limit "
            "nvidia.com/gpu), until `nvidia-smi` lists them"
        )
        return Finding("GPUs", "failed", machine.gpu_problem, cure)
    if not machine.gpus:
        return Finding("GPUs", "ok", "none, training uses CPUs") if machine.python else None
    first = machine.gpus[0]
    found = f"{len(machine.gpus)} x {first.name}, {size(first.memory_bytes)} each, driver {first.driver}"
    taken = [
        f"GPU {number} has {size(gpu.used_bytes)} of {size(gpu.memory_bytes)} in use"
        for number, gpu in enumerate(machine.gpus)
        if gpu.used_bytes > gpu.memory_bytes / 2
    ]
    if taken:
        return Finding("GPUs", "warning", f"{found}; {listed(taken)}", "`nvidia-smi` names the processes that hold it")
    return Finding("GPUs", "ok", found)


def _torch_build(machine: Machine) -> Finding | None:
    version = machine.packages.get("torch")
    if not machine.gpus or version is None:
        return None
    if machine.torch_cuda is None:
        cure = (
            "install torch's CUDA build: pip install --force-reinstall torch=="
            f"{version.partition('+')[0]} --index-url https://download.pytorch.org/whl/cuNNN, NNN as the driver allows"
        )
        return Finding("torch build", "failed", f"torch {version} is a build for CPUs, and there are GPUs", cure)
    known = machine.driver_cuda
    found = f"torch {version} for CUDA {machine.torch_cuda}, the driver knows CUDA {known or 'of unknown version'}"
    if known and int(machine.torch_cuda.split(".")[0]) > int(known.split(".")[0]):
        cure = f"update the NVIDIA driver, or install the build of torch for CUDA {known.split('.')[0]}"
        return Finding("torch build", "failed", found, cure)
    return Finding("torch build", "ok", found)


def nccl(seen: Observations) -> Finding | None:
    """Whether GPUs can be summed over."""
    gpus = seen.cluster.gpus if seen.cluster is not None else seen.gpus
    if gpus is None:
        return None
    problem = gpus.unanswered or gpus.problem
    if problem is not None:
        cure = (
            "`NCCL_DEBUG=INFO dynfusion --debug doctor` says what NCCL does; NCCL_SOCKET_IFNAME names the network "
            "between nodes, NCCL_P2P_DISABLE=1 and a larger /dev/shm help in containers"
        )
        return Finding("NCCL", "failed", problem, cure)
    if gpus.busy:
        found = f"not tried: all {gpus.count} GPUs of the cluster are in use"
        return Finding("NCCL", "warning", found, "look again when some are free")
    ranks = f"{gpus.summed} GPU{'s' * (gpus.summed != 1)}"
    return Finding("NCCL", "ok", f"NCCL {gpus.nccl}, an all-reduce among {ranks} is right")


CHECKS: tuple[Check, ...] = (on_every_machine(_gpus), on_every_machine(_torch_build), nccl)
