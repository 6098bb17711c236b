"""From a sweep's folder to what a person reads: best settings, what matters, curves, one page, a run file."""
