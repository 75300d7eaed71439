"""The stages: each module makes one kind of artifact, from its settings and inputs alone.

    Settings, Inputs                            all that `build` reads; together they are what the artifact is known by
    recipe(cell) -> Recipe                      the settings and inputs of a cell
    build(settings, inputs, context, folder)    writes the artifact's files; returns its summary, plain values
    requests(cell) -> list[Requests]            only where a server may be asked: how much, for the price

A recipe is cheap; what is heavy is imported where it is used. Stages meet through artifacts alone.
"""
