"""Models as files: saved, exported, asked. Public names are loaded when first used."""
import lazy_loader as lazy

from visft_nb.checks import old_names

_load, _, __all__ = lazy.attach(__name__, submod_attrs={
    "asking": ["Answer", "Opened", "iter_answers", "open_model"],
    "builders": ["BUILDERS", "Builder", "Rule", "build_model", "builder_table",
                 "find_builder", "largest_map", "model_bytes", "outline_model"],
    "card": ["model_card"],
    "exporting": ["check_logits"],
    "masks": ["UNSEEN", "answer_mask", "free_name", "image_probabilities",
              "longest_diameter", "mask_confidence", "save_mask", "uncertainty"],
    "onnx": ["check_onnx", "export_onnx", "load_onnx"],
    "prediction": ["predict"],
    "programs": ["export_program", "load_program"],
    "quantizing": ["quantize_onnx"],
    "runtime": ["GuardedGraph", "graph_fault", "interface_fault"],
    "spec": ["TASKS", "load_model", "model_header", "model_spec", "save_model",
             "spec_sides"],
    "spreadsheets": ["original_cell", "plain_cell", "read_answers",
                     "write_answers"],
    "tiles": ["blend_tiles", "check_tile", "tile_starts", "tiled_logits"],
})

# of visft_nb.data, offered here too: what the model is shown is what these read
_DATA = [
    "DecodedImage", "apply_window", "dicom_frames", "fit_channels", "frame_value",
    "prepare_image", "read_image", "read_pictures", "rescaled"]
__all__ = sorted([*__all__, *_DATA])


def _find(name):
    if name not in _DATA: return _load(name)
    from visft_nb import data
    return getattr(data, name)


__getattr__ = old_names(
    __name__, _find, answers='iter_answers', Picture='DecodedImage')


def __dir__(): return __all__
