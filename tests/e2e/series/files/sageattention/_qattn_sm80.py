from ._library import operators

mini_attn = operators("_qattn_sm80", "sageattention", {}, lambda *_: None)["mini_attn"]
