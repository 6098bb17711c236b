"""Which modalities a scored molecule may show: every protocol is a table of masks."""
