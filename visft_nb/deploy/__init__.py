"""Models as files: saving, exporting, asking. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "prediction": ["Answer", "Opened", "Picture", "TASKS", "UNSEEN", "answer_mask", "answers", "apply_window", "build_model",
                   "check_onnx", "dicom_frames", "export_onnx", "export_program", "find_builder", "fit_channels", "frame_value",
                   "free_name", "image_probabilities", "load_model", "load_onnx", "load_program", "longest_diameter",
                   "mask_confidence", "model_card", "model_spec", "open_model", "predict", "prepare_image", "quantize_onnx",
                   "read_image", "read_pictures", "rescaled", "save_mask", "save_model", "uncertainty"],
    "spreadsheets": ["original_cell", "plain_cell", "read_table", "write_table"],
})
