"""Chapter 5: codes, adversaries, pictures from text and from noise.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "bits": ["jpeg_rate", "PCACoder"],
    "codes": [
        "encode_all", "fit_codes", "kmeans", "nearest_codes", "perplexity", "Quantized",
        "VectorQuantizer", "VQVAE"],
    "transformer": ["CausalTransformer", "KeyValueCache", "NextToken", "sample_logits"],
    "adversaries": [
        "DigitDiscriminator", "DigitGenerator", "discriminator_loss", "gan_samples",
        "gan_step", "generator_loss", "score_gradient"],
    "gan_training": ["Gan", "GanTrainer", "image_draw", "make_gan"],
    "contest": [
        "Contestant", "race_cache", "race_precision", "repeat_images", "train_codes",
        "train_diffusion", "train_flow", "train_gan", "train_vae"],
    "modes": ["count_labels", "count_modes", "grid", "Mixture", "ModeCount", "ring"],
    "toys": ["count_copies", "pack_samples", "ToyDiscriminator", "ToyGenerator"],
    "yardsticks": ["frechet_distance", "kid", "precision_recall"],
    "denoiser": ["Denoiser", "PointDenoiser"],
    "noise": ["Diffusion", "FlowMatching", "guided", "NoiseStep"],
    "label_maps": [
        "FACADE_CLASSES", "FACADE_COLORS", "LETTERS", "load_pairs", "make_houses",
        "one_hot", "paint_maps", "read_maps", "text_map", "window_map"],
    "map_explorer": ["explore_maps", "show_rows", "show_translations"],
    "picture_scores": [
        "color_overlap", "gradient_energy", "judge_pictures", "label_scores",
        "rgb_to_lab", "train_judge"],
    "pix2pix_speed": ["race_pix2pix"],
    "translate": ["PatchDiscriminator", "Pix2Pix", "UNetGenerator"],
    "kit": [
        "generator_file", "load_generator", "read_generator", "save_generator",
        "weights_hash"],
    "scenes": [
        "caption", "Captions", "draw_scene", "draw_scenes", "judge_scene",
        "nearest_words", "read_scene", "Scene", "scene_of", "split_captions", "Thing",
        "tidy", "unknown_words", "Words"],
    "sheet": ["save_sheet", "sheet_path"],
    "text": [
        "CaptionStep", "CellVQVAE", "draw_sentence", "Drawing", "drawing_model",
        "fit_cells", "fit_drawing", "SpreadQuantizer", "TextToImage"],
})
