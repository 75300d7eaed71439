"""From the folders of runs to what they show: reading, comparing, words and tables, plots."""
