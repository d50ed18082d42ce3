"""The kinds of node a graph is made of: each a function (ctx, config, *, inputs) -> Artifact.

They import torch and its kind inside the function: a plan imports every stage and must take a second.
"""
