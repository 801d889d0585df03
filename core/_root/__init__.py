"""slm-ar: train small language models on your own data and improve the training code by itself."""

__version__ = "0.1.0"

__all__ = ["__version__"]
