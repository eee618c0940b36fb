"""Chapter 5: codes, adversaries, pictures from text and from noise.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "codes": [
        "Quantized", "VQVAE", "VectorQuantizer", "encode_all", "fit_codes", "kmeans",
        "nearest_codes", "perplexity"],
    "kit": [
        "generator_file", "load_generator", "read_generator", "save_generator",
        "weights_hash"],
    "scenes": [
        "Captions", "Scene", "Thing", "Words", "caption", "draw_scene", "draw_scenes",
        "judge", "nearest_words", "read_scene", "scene_of", "split_captions", "tidy",
        "unknown_words"],
    "sheet": ["save_sheet", "sheet_path"],
    "text": [
        "CaptionStep", "CellVQVAE", "Drawing", "SpreadQuantizer", "TextToImage",
        "draw_sentence", "drawing_model", "fit_cells", "fit_drawing"],
    "transformer": [
        "CausalTransformer", "KeyValueCache", "NextToken", "sample_logits"],
})
