"""The models: one protocol, several ways to make and to ask them."""
