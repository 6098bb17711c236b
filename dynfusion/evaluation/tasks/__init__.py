"""What is scored: labelled molecules as arrays, how they are split, and where a split leaks."""
