"""Requests to models behind servers: what they cost, the pace they leave at, and the journal of every answer."""
