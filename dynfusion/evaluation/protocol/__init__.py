"""Who is fitted on what, the table of independent groups of cells, and finished ones on disk."""
