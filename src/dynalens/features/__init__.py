"""What a layer computes: its features of each sample, its filters, and the inputs that excite it."""

from dynalens.features.pooling import pooled
from dynalens.features.rows import FeatureRows

__all__ = ["FeatureRows", "pooled"]
