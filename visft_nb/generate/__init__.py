"""Chapter 5: codes, adversaries, pictures from text and from noise.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "codes": [
        "Quantized", "VQVAE", "VectorQuantizer", "encode_all", "fit_codes", "kmeans",
        "nearest_codes", "perplexity"],
    "transformer": [
        "CausalTransformer", "KeyValueCache", "NextToken", "sample_logits"],
})
