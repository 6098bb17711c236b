"""Training while something breaks: for each fault what is promised, what happened, and what was lost.

python -m pytest tests/chaos -m slow --basetemp ... prints nothing; DYNFUSION_CHAOS=FILE collects a line for every fault,
and `python -m tests.chaos.ledger FILE` makes the table of them.
"""
