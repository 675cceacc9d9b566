from ._library import operators

mini_clamp = operators("_qattn_sm89", "sageattention_sm89", {}, lambda *_: None)["mini_clamp"]
