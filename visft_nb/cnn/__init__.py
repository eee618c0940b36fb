"""Chapter 1: the convolutional network. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={"models": ["SmallCNN", "conv_block", "small_cnn"]})
