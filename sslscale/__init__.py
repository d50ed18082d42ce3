"""sslscale: image models from few labels and many images, as a graph of cached stages."""

__version__ = "0.1.0"
