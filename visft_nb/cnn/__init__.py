"""Chapter 1: the convolutional network.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

# `layers`, NumPy functions with names such as `conv2d`, is imported as a module
__getattr__, __dir__, __all__ = lazy.attach(__name__, submodules=[
    "forward", "backward", "layers", "models", "inside", "numpy_train",
], submod_attrs={
    "numpy_train": ["lenet", "SGD", "Adam", "train_numpy", "accuracy_numpy"],
    "models": [
        "SmallCNN", "conv_block", "small_cnn", "VGG", "vgg11", "vgg16", "ResNet",
        "resnet18", "resnet50"],
    "parts": ["Backbone", "Normalise"],
    "vit": ["VisionTransformer", "attention_maps", "vit_tiny"],
    "costs": ["model_costs"],
    "features": ["embed", "embed_stream"],
    "imagenet": ["imagenet_classifier", "imagenet_names", "photo", "top_classes"],
    "inside": [
        "filters", "keep_outputs", "feature_maps", "strongest_maps", "explore_maps",
        "input_gradient", "saliency", "grad_cam", "integrated_gradients",
        "guided_backprop", "randomise", "rank_correlation"],
})
