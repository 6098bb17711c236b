"""What a fused embedding is worth when modalities are missing."""
