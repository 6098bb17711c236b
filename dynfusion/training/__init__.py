"""Joins store and fusion in one loop; knows no cluster."""
