"""Data sets: rows become Problems, recorded solutions are traced to them, and repeated test questions are found."""
