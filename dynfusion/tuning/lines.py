"""What a person reads while a sweep works: a line for every report and every end."""

from dynfusion.tuning.records import Trial
from dynfusion.tuning.report.wording import duration, settings_text


def begun_line(trial: Trial) -> str:
    """A trial's beginning, or its next attempt."""
    if trial.attempts > 1:
        where = (
            f"from {trial.samples_seen:,} molecules on"
            if trial.samples_seen
            else "from its last checkpoint if it has one"
        )
        return f"trial {trial.id}  attempt {trial.attempts}, {where}"
    return f"trial {trial.id}  {settings_text(trial.settings)}"


def report_line(trial: Trial, best: tuple[float, str] | None) -> str:
    """A check of a trial, beside the best that has been seen so far."""
    share = trial.samples_seen / trial.total_samples if trial.total_samples else 1.0
    scores = "  ".join(f"{name} {value:.4f}" for name, value in (trial.objectives or {}).items())
    beside = f"  (best {best[0]:.4f}, trial {best[1]})" if best else ""
    return f"trial {trial.id}  {100 * share:3.0f} %  {scores}{beside}"


def end_line(trial: Trial, done: int, samples: int) -> str:
    """A trial's end."""
    word = {"finished": "finished", "stopped": "stopped", "failed": "FAILED"}[trial.state]
    why = f": {trial.reason}" if trial.reason else ""
    times = f"{duration(trial.seconds)} of training, {duration(trial.overhead_seconds)} beside it"
    return f"trial {trial.id}  {word}{why}  ({times}; {done} of {samples} done)"
