"""diffusers: its backends for SageAttention, and whole models with torch's attention replaced."""

from __future__ import annotations

import gc
import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch

from builder.smoketest.attention.compare import relative_error, same_bits
from builder.smoketest.attention.inputs import poison
from builder.smoketest.attention.subject import Subject, one_line, problems_of
from builder.smoketest.plan import DIFFUSERS_BACKENDS, WHOLE_MODELS, RowSpec
from builder.smoketest.report import Result, not_applicable, verdict
from builder.smoketest.rows.runtime.streams import SLOW_CYCLES
from builder.smoketest.rows.speed import steady_s

LARGEST_ERROR = 0.02
"""Relative error of a model's output: 0.003 to 0.008 on an H100, and 1 where attention is wrong."""
SMALL_WAN: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 128,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 64,
    "freq_dim": 64,
    "ffn_dim": 512,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}
FLUX: dict[str, Any] = {"num_layers": 4, "num_single_layers": 8, "guidance_embeds": True}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
WHOLE_ERROR = 0.05
"""Of more layers, and more rounding between them."""
NEEDED_BYTES = 24 * 2**30
NOISE = 0.01
"""By how much the ratio of two times varies from run to run."""

Model = tuple[Any, dict[str, Any]]
"""A model and the keyword arguments of its call."""


def _missing(subject: Subject, spec: RowSpec) -> str:
    """Return why diffusers, or the kernel of its backend, can't be used; empty if it can."""
    try:
        importlib.import_module("diffusers.models.attention_dispatch")
        diffusers = importlib.import_module("diffusers")
        for name in ("WanTransformer3DModel", "FluxTransformer2DModel", "UNet2DConditionModel"):
            getattr(diffusers, name)
    except ModuleNotFoundError as error:
        return "diffusers is not installed" if error.name == "diffusers" else one_line(error)
    except Exception as error:
        return f"diffusers can't be imported: {one_line(error)}"
    return spec.kernel.why_not(subject.capability)


def _build(kind: str, configuration: dict[str, Any], device: str) -> Any:
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            model = getattr(importlib.import_module("diffusers"), kind)(**configuration)
    finally:
        torch.set_default_dtype(default)
    return model.to(device, torch.bfloat16).eval()


def _wan(
    device: str, configuration: dict[str, Any], latents: tuple[int, ...], text: tuple[int, ...]
) -> Model:
    model = _build("WanTransformer3DModel", configuration, device)
    normal = partial(torch.randn, device=device, dtype=torch.bfloat16)
    inputs = {
        "hidden_states": normal(latents),
        "timestep": torch.full((latents[0],), 500, device=device),
        "encoder_hidden_states": normal(text),
        "return_dict": False,
    }
    return model, inputs


def _flux(device: str) -> Model:
    normal = partial(torch.randn, device=device, dtype=torch.bfloat16)
    inputs = {
        "hidden_states": normal(1, 4096, 64),
        "encoder_hidden_states": normal(1, 512, 4096),
        "pooled_projections": normal(1, 768),
        "timestep": torch.full((1,), 0.5, device=device, dtype=torch.bfloat16),
        "guidance": torch.full((1,), 3.5, device=device),
        "img_ids": torch.zeros(4096, 3, device=device, dtype=torch.bfloat16),
        "txt_ids": torch.zeros(512, 3, device=device, dtype=torch.bfloat16),
        "return_dict": False,
    }
    return _build("FluxTransformer2DModel", FLUX, device), inputs


def _sdxl(device: str) -> Model:
    normal = partial(torch.randn, device=device, dtype=torch.bfloat16)
    inputs = {
        "sample": normal(2, 4, 128, 128),
        "timestep": torch.tensor(500, device=device),
        "encoder_hidden_states": normal(2, 77, 2048),
        "added_cond_kwargs": {"text_embeds": normal(2, 1280), "time_ids": normal(2, 6)},
        "return_dict": False,
    }
    return _build("UNet2DConditionModel", SDXL, device), inputs


def _wan_14b(device: str, layers: int, height: int, width: int) -> Model:
    latents = (1, 16, 21, height // 8, width // 8)
    # diffusers' own configuration is that of the 14B model.
    return _wan(device, {"num_layers": layers}, latents, (1, 512, 4096))


BUILDERS: dict[str, Callable[[str], Model]] = {
    "Wan 480p": partial(_wan_14b, layers=4, height=480, width=832),
    "Wan 720p": partial(_wan_14b, layers=2, height=720, width=1280),
    "Flux": _flux,
    "SDXL": _sdxl,
}


def whole_model(subject: Subject, spec: RowSpec) -> Result:
    """Time a whole model with torch's attention, and with it replaced, and compare what they compute."""
    if reason := _missing(subject, spec):
        return not_applicable(reason)
    gc.collect()  # the model of the last row
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(subject.device)
    if free < NEEDED_BYTES:
        return not_applicable(f"needs 24 GiB of free GPU memory, {free / 2**30:.0f} GiB are free")
    kind, goal = WHOLE_MODELS[spec.case]
    model, inputs = BUILDERS[kind](subject.device)
    if hasattr(model, "set_attention_backend"):
        model.set_attention_backend("native")  # a model of another row may have left its own as the process's
    replacement = subject.module.scaled_dot_product_attention

    def replaced() -> torch.Tensor:
        with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", replacement):
            out: torch.Tensor = model(**inputs)[0]
        return out

    with torch.inference_mode():
        error = relative_error(replaced(), model(**inputs)[0])
        torchs, ours = steady_s([lambda: model(**inputs), replaced], seconds=1.0)
    ratio = torchs / ours
    problems = [] if error <= WHOLE_ERROR else [f"relative error {error:.4f} > {WHOLE_ERROR}"]
    limits = {"relative_error": f"<= {WHOLE_ERROR}"}
    if subject.capability == (9, 0):  # the goals are those of an H100
        limits["times_sdpa"] = f">= {goal} - {NOISE}"
        problems += [] if ratio >= goal - NOISE else [f"{ratio:.3f} times as fast as torch's, not {goal}"]
    figures = {"relative_error": error, "times_sdpa": ratio, "model_s": ours, "model_sdpa_s": torchs}
    return verdict(problems, figures, limits)


def _small_wan(subject: Subject) -> tuple[Any, dict[str, Any], torch.Tensor]:
    """Return a Wan transformer of two layers, its inputs, and its output with diffusers' native backend."""

    def make() -> tuple[Any, dict[str, Any], torch.Tensor]:
        model, inputs = _wan(subject.device, SMALL_WAN, (2, 4, 5, 32, 32), (2, 77, 64))
        model.set_attention_backend("native")
        return model, inputs, model(**inputs)[0].clone()

    return subject.cached("small Wan", make)


def backend(subject: Subject, spec: RowSpec) -> Result:
    """A backend's output is near the native one's, and has the same bits on a side stream."""
    if reason := _missing(subject, spec):
        return not_applicable(reason)
    return _run(subject, spec.case)


def others(subject: Subject, spec: RowSpec) -> Result:
    """Backends that this version of diffusers has besides, but for those that it downloads."""
    if reason := _missing(subject, spec):
        return not_applicable(reason)
    dispatch = importlib.import_module("diffusers.models.attention_dispatch")
    names = [str(one.value) for one in dispatch.AttentionBackendName if "sage" in str(one.value)]
    more = [name for name in names if not name.endswith("_hub") and name not in DIFFUSERS_BACKENDS]

    def attempt(name: str) -> list[str]:
        return list(filter(None, [_run(subject, name).reason]))

    problems = problems_of({name: partial(attempt, name) for name in more})
    gone = [name for name in DIFFUSERS_BACKENDS if name not in names]
    return verdict(problems, {"more": float(len(more)), "gone": float(len(gone))})


def _run(subject: Subject, name: str) -> Result:
    model, inputs, native = _small_wan(subject)
    model.set_attention_backend(name)
    poison(subject.device)
    out = model(**inputs)[0].clone()
    problems, error = _near(out, native)
    if subject.on_gpu:
        stream = torch.cuda.Stream(subject.device)
        late = {**inputs, "hidden_states": torch.full_like(inputs["hidden_states"], float("nan"))}
        torch.cuda.synchronize(subject.device)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(SLOW_CYCLES)
            late["hidden_states"].copy_(inputs["hidden_states"])
            aside = model(**late)[0].clone()
        stream.synchronize()
        if not problems and not same_bits(aside, out):
            problems.append("differs on a side stream")
    return verdict(problems, {"relative_error": error}, {"relative_error": f"<= {LARGEST_ERROR}"})


def _compiled(subject: Subject, spec: RowSpec, *, mode: str) -> Result:
    """The compiled transformer with the backend that asks `sageattn`, three times with the same inputs."""
    if reason := _missing(subject, spec):
        return not_applicable(reason)
    model, inputs, native = _small_wan(subject)
    model.set_attention_backend("sage")
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, mode=mode)
        for _ in range(3):  # CUDA graphs are captured in the second call, and replayed in the third
            out = compiled(**inputs)[0].clone()
    torch._dynamo.reset()
    problems, error = _near(out, native)
    return verdict(problems, {"relative_error": error}, {"relative_error": f"<= {LARGEST_ERROR}"})


compiled = partial(_compiled, mode="default")
compiled_graphs = partial(_compiled, mode="reduce-overhead")


def _near(out: torch.Tensor, native: torch.Tensor) -> tuple[list[str], float]:
    error = relative_error(out, native)
    return ([] if error <= LARGEST_ERROR else [f"relative error {error:.4f} > {LARGEST_ERROR}"]), error
