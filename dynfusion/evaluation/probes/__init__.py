"""Heads on frozen features, fitted on training and validation rows alone."""
