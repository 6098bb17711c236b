"""Training while something breaks: for each fault what is promised, what happened, and what was lost."""
