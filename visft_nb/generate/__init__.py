"""Chapter 5: codes, adversaries, pictures from text and from noise.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "label_maps": [
        "FACADE_CLASSES", "FACADE_COLORS", "LETTERS", "load_pairs", "make_houses",
        "one_hot", "paint_maps", "read_maps", "text_map", "window_map"],
    "map_explorer": ["explore_maps", "show_rows", "show_translations"],
    "picture_scores": [
        "color_overlap", "gradient_energy", "judge", "label_scores", "rgb_to_lab",
        "train_judge"],
    "pix2pix_speed": ["race_pix2pix"],
    "translate": ["PatchDiscriminator", "Pix2Pix", "UNetGenerator"],
    "gan_training": ["Gan", "GanTrainer", "image_draw", "make_gan"],
    "modes": ["Mixture", "ModeCount", "count_labels", "count_modes", "grid", "ring"],
    "yardsticks": ["frechet_distance", "kid", "precision_recall"],
})
