"""What a label cannot tell: reconstruction, alignment, collapse."""
