"""SMILES -> embeddings: one file per encoder family, the molecules they read, and the folder they write."""
