"""What a run prints beside its results: how far it is, commands to paste, and nothing of the libraries it uses."""
