"""What a training run will cost, from its settings, its data and figures of a machine: pure functions."""
