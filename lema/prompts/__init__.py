"""The texts models read and write: prompts, the paper's formats, and their parsers."""
