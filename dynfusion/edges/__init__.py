"""One foreign system per file: Ray Train, DeepSpeed, Ray tasks for evaluation."""
