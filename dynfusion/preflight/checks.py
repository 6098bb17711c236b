"""All checks, in the order of the table. A new one is a function and a row in the table of the file it belongs to."""

from dynfusion.preflight import cluster_checks, gpu_checks, machine_checks, store_checks
from dynfusion.preflight.finding import Finding
from dynfusion.preflight.observations import Observations

CHECKS = (*machine_checks.CHECKS, *gpu_checks.CHECKS, *cluster_checks.CHECKS, *store_checks.CHECKS)


def diagnose(seen: Observations) -> list[Finding]:
    """What every check finds, in their order; those that have nothing to judge say nothing."""
    return [finding for check in CHECKS if (finding := check(seen)) is not None]
