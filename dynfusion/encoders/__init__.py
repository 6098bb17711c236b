"""SMILES to embeddings, one file per encoder family; needs the extra `chem`."""
