"""What a probe reads: features of exactly what is visible, fusion model and rivals alike."""
