"""A process of jobs that does as its job says. Apart from the tests, so that it starts without what they import."""

import os
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from dynfusion.tuning.messages import JOB, TOLD, Ended, Job, Report


class Obedient(Trainable):
    """Tells a report a step, as many as its job says, then ends as it says; `die` in its settings loses the process."""

    def setup(self, config: dict[str, Any]) -> None:
        self.job: Job = config[JOB]
        self.told = 0

    def step(self) -> dict[str, Any]:
        settings = self.job.settings
        if settings.get("die") == "always" or (settings.get("die") == "once" and self._is_first()):
            os._exit(7)
        self.told += 1
        if self.told <= settings["reports"]:
            return {TOLD: Report(self.told, self.told, {"score": 1.0}, 0.0), "done": False}
        first = settings.get("postpone") and self._is_first()
        ended = Ended("postponed", "no room", 0.0) if first else Ended("finished", None, 0.0)
        return {TOLD: ended, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def _is_first(self) -> bool:
        mark = Path(self.job.sweep, f"{self.job.id}.been")
        been = mark.exists()
        mark.touch()
        return not been
