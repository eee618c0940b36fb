"""Images as tensors: loading, splitting, leaks, augmentation. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "images": ["Augment", "Batches", "COLOURS", "DATASETS", "DataSet", "Images", "affine", "corrupt_files", "crop", "csv_images", "data_file",
               "dataset_table", "draw", "few_labels", "get_dataset", "image_folder", "is_official", "load_dataset", "make_nodules",
               "make_shapes", "mask_boxes", "mask_pairs", "random_affine", "random_flip", "random_resized_crop", "seeded", "split_data", "warp"],
    "leaks": ["Leaks", "find_leaks"],
})
