"""lema: the experiment suite for learning from mistakes (LeMa, arXiv 2310.20689)."""
