"""Sweeps: what is searched, what a sweep leaves on disk, and what it found."""
