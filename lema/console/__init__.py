"""What a run prints beside its results: how far it is, and nothing of the libraries that it uses."""
