"""The table of `bench/results/native_engine.json`: the native engine's vectors beside onnxruntime's."""

from __future__ import annotations

from typing import Any

_NAMES = {
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "neon_dotprod": "ARM dot product",
}


def native_engine_table(found: dict[str, Any]) -> str:
    """Return how many vectors and levels are onnxruntime's by instruction set, and on what."""
    machine, theirs = found["machine"], found["onnxruntime_cosine_to_fp32"]
    lines = [
        "| the engine with | same to the last bit | within 1e-5 | a coordinate moves by at most "
        "| least cosine | levels changed | cosine to fp32, mean and least |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["engine"].items():
        exact = row["cosine_to_fp32"]
        lines.append(
            f"| {_NAMES[name]} | {row['same_bits']:.2%} | {row['same_within_1e-5']:.2%} "
            f"| {row['largest_difference']:.4f} | {row['cosine_to_onnxruntime']['least']:.5f} "
            f"| {row['levels_changed']} of {found['pairs']:,} | {exact['mean']:.4f}, {exact['least']:.4f} |"
        )
    lines.append(f"| (onnxruntime itself) | | | | | | {theirs['mean']:.4f}, {theirs['least']:.4f} |")
    note = (
        f"{found['texts']:,} titles and the test pairs of KUAKE-QTR, {found['model']}, {found['variant']}, "
        f"onnxruntime {found['onnxruntime']}, {machine['cpu']}, {machine['date']} (`make native-engine`)"
    )
    return "\n".join([*lines, "", f"{note}."]) + "\n"
