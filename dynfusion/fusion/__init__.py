"""The mathematics: batch, masking, model, losses, metrics. Imports torch and nothing that knows files or clusters."""
