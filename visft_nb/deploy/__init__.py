"""Models as files: saving, exporting, asking. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "builders": ["BUILDERS", "Builder", "Rule", "build_model", "builder_table", "find_builder", "largest_map", "model_bytes", "outline_model"],
    "prediction": ["Answer", "Opened", "Picture", "UNSEEN", "answer_mask", "answers", "apply_window", "check_logits",
                   "check_onnx", "dicom_frames", "export_onnx", "export_program", "fit_channels", "frame_value",
                   "free_name", "image_probabilities", "load_onnx", "load_program", "longest_diameter",
                   "mask_confidence", "model_card", "open_model", "predict", "prepare_image", "quantize_onnx",
                   "read_image", "read_pictures", "rescaled", "save_mask", "uncertainty"],
    "runtime": ["GuardedGraph", "graph_fault", "interface_fault"],
    "spec": ["TASKS", "load_model", "model_header", "model_spec", "save_model", "spec_sides"],
    "spreadsheets": ["original_cell", "plain_cell", "read_answers", "write_answers"],
    "tiles": ["blend_tiles", "check_tile", "tile_starts", "tiled_logits"],
})
