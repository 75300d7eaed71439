"""The stages. Each module offers `recipe(cell)`, what its artifact is made from, and `build(cell, folder)`.

A `recipe` is cheap, so that a cached run answers at once; what is heavy is imported where it is used. Stages
never import each other: they meet through artifacts.
"""
