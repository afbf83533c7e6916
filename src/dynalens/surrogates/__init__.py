"""Simple models in place of the network: linear ones around a sample, what they say of a class, a tree of all."""

from dynalens.surrogates.lime import LimeMaps, lime_maps
from dynalens.surrogates.normlime import normlime
from dynalens.surrogates.tree import TreeSurrogate, tree_surrogate

__all__ = ["LimeMaps", "TreeSurrogate", "lime_maps", "normlime", "tree_surrogate"]
