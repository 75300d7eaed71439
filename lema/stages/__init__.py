"""The stages: each offers `recipe(cell)`, what its artifact is made from, and `build(cell, folder)`.

A recipe is cheap; what is heavy is imported where it is used. Stages meet through artifacts alone.
"""
