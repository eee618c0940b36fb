"""Chapter 6: claims, recomputed.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "tokens": [
        "entity_scores", "EntityScores", "span_counts", "spans", "tag_loss",
        "tag_sentences", "token_accuracy", "TokenTagger"],
    "wnut": ["load_wnut", "make_sentences", "read_conll", "Sentences", "Wnut"],
    "words": ["Vocabulary", "word_batches"],
})
