"""The choice of the ONNX file that this CPU runs fastest and computes exactly."""

from __future__ import annotations

from relsdk.bundle import Bundle, Variant
from relsdk.errors import BundleError
from relsdk.runtime.hardware import cpu_features

__all__ = ["best_int8", "choose_variant", "runs_exactly", "variant_verdicts"]

# Best first: one of these CPU features is needed. Full-range signed weights saturate where none of them is;
# those of an "avx2" file have a smaller range, those of an "any" file are unsigned, which is slower.
_ISA_NEEDS: dict[str, set[str]] = {
    "avx512_vnni": {"avx512_vnni", "avx_vnni", "arm64"},
    "arm64": {"arm64"},
    "avx2": set(),
    "any": set(),
}


def choose_variant(
    bundle: Bundle, wanted: str = "auto", *, features: frozenset[str] | None = None
) -> Variant:
    """Choose the ONNX file for this CPU: the best int8 file it can run exactly, else fp32.

    Args:
        bundle: The model.
        wanted: A variant's name or file, or "auto".
        features: CPU features; None reads this machine's.

    Raises:
        InputError: There is no such variant.
        BundleError: Somebody's folder has no file whose name says what it computes, and none was named.
    """
    if wanted != "auto":
        return bundle.variant(wanted)
    for isa in _ISA_NEEDS:
        for variant in bundle.variants:
            if (
                variant.isa == isa
                and variant.quantisation == "int8"
                and runs_exactly(variant, features=features)
            ):
                return variant
    if not bundle.variants:
        raise BundleError(
            f"{bundle.path} has no ONNX file whose name says fp32 or int8; name the one to load: "
            f"variant={bundle.other_files[0]!r} (--variant); it has {list(bundle.other_files)}"
        )
    return next((v for v in bundle.variants if v.quantisation == "fp32"), bundle.variants[0])


def variant_verdicts(bundle: Bundle, *, features: frozenset[str] | None = None) -> dict[str, str]:
    """Say of each variant, by name, why "auto" takes it or does not; one clause for people."""
    chosen = choose_variant(bundle, features=features)
    verdicts = {}
    for variant in bundle.variants:
        needs = " or ".join(sorted(_ISA_NEEDS.get(variant.isa, {variant.isa})))
        if not runs_exactly(variant, features=features):
            verdict = f"needs {needs}, which this CPU lacks"
            if variant.name == chosen.name:
                verdict = f"would load although it {verdict}: there is no other"
        elif variant.name == chosen.name:
            fallback = "no int8 file is computed exactly here, and this one is"
            best = f"the best int8 file that this CPU computes exactly{f' ({needs})' if needs else ''}"
            verdict = f"would load: {best if variant.quantisation == 'int8' else fallback}"
        else:
            verdict = f"runs here; {chosen.name} is faster"
        verdicts[variant.name] = verdict
    return verdicts


def best_int8(features: frozenset[str] | None = None) -> str:
    """Return the name of the fastest of relsdk's own int8 variants that this CPU computes exactly."""
    names = (f"int8_{isa}" for isa in ("avx512_vnni", "avx2"))
    return next(
        name
        for name in names
        if runs_exactly(Variant(name, "", "int8", name.removeprefix("int8_")), features=features)
    )


def runs_exactly(variant: Variant, *, features: frozenset[str] | None = None) -> bool:
    """Whether this CPU (or one of the given features) computes a variant without saturating."""
    needs = _ISA_NEEDS.get(variant.isa, {variant.isa})
    return not needs or bool(needs & (cpu_features() if features is None else features))
