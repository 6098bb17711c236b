"""From scores to numbers: metrics, resampling, paired comparisons, robustness."""
