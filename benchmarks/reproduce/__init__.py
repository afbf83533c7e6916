"""Claims of the sources behind the package, tried again on real data; run as ``python -m reproduce``."""
