"""Correctors: from a wrong solution to its first mistake, the reason, and the right steps from there on."""
