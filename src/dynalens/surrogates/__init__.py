"""Simple models that imitate the network: linear models around samples, their means over classes, and a tree."""

from dynalens.surrogates.lime import LimeMaps, lime_maps
from dynalens.surrogates.normlime import normlime
from dynalens.surrogates.tree import TreeSurrogate, tree_surrogate

__all__ = ["LimeMaps", "TreeSurrogate", "lime_maps", "normlime", "tree_surrogate"]
