from ._library import operators

mini_barrier = operators("_qattn_sm90", "sageattention_sm90", {}, lambda *_: None)["mini_barrier"]
